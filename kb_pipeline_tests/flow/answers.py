"""HTTP servers on the loopback that answer as told: what clients raise for it is what the tests look at.

What belongs here: one server with canned answers, plain or over TLS. What doesn't: clients.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

Fault = Literal["", "drop", "hang", "cut"]


class Answers:
    """A server whose every answer is the one that was set last."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.status = 200
        self.body = b""
        self.headers: Mapping[str, str] = {}
        self.fault: Fault = ""
        self._over = threading.Event()
        answers = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if answers.fault == "drop":
                    self.close_connection = True
                    self.connection.shutdown(2)
                    return
                if answers.fault == "hang":
                    answers._over.wait(30)
                    self.close_connection = True
                    return
                self.send_response_only(answers.status)
                for name, value in answers.headers.items():
                    self.send_header(name, value)
                missing = 100 if answers.fault == "cut" else 0
                self.send_header("Content-Length", str(len(answers.body) + missing))
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else answers.body)
                self.close_connection = answers.fault == "cut"

            do_GET = do_HEAD = do_PUT = do_POST = do_CONNECT = answer

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that goes away is what some tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'http' if context is None else 'https'}://127.0.0.1:{self._server.server_port}"
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def set(self, status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None, fault: Fault = "") -> None:
        """What it answers from now on."""
        self.status, self.body, self.headers, self.fault = status, body, headers or {}, fault

    def close(self) -> None:
        """End it, and those who wait for it."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def served(context: ssl.SSLContext | None = None) -> Iterator[Answers]:
    """A server for as long as the context lasts."""
    answers = Answers(context)
    try:
        yield answers
    finally:
        answers.close()


def certificate(folder: Path, *, days: int = 1) -> ssl.SSLContext:
    """A server's TLS with a certificate that it signed itself; one that ran out for negative ``days``."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def closed_port() -> int:
    """A port of the loopback at which nobody listens."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
