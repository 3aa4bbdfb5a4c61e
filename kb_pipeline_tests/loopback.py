"""An HTTP server in this process, for tests whose server must answer as told.

What belongs here: starting one on a free port, ending it with all who wait for it. What doesn't: any answer.
"""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Says nothing on stderr; subclasses answer."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what some tests are about."""


class LoopbackServer:
    """A server that runs until it is closed; ``over`` is set then, for answers that wait. Over TLS with a ``context``."""

    def __init__(self, handler: type[Handler], context: ssl.SSLContext | None = None) -> None:
        self.over = threading.Event()
        self._server = _Server(("127.0.0.1", 0), handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"{'http' if context is None else 'https'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it, and those who wait for it."""
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
