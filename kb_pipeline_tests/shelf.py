"""A small service on the loopback that holds documents, and can be told to misbehave: for tests and benchmarks.

What belongs here: the server. What doesn't: the connector that reads it (``acceptance.third_party.Shelf``).
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from urllib.parse import unquote

from kb_pipeline_tests.loopback import Handler, LoopbackServer

Answer = tuple[int, Mapping[str, str]]
"""A status and headers."""
DROP: Answer = (0, {})
"""Hang up without a word."""


def throttled(seconds: float | None = None) -> Answer:
    """An answer that asks for patience."""
    return 429, ({} if seconds is None else {"Retry-After": f"{seconds:g}"})


class Shelf(LoopbackServer):
    """Documents by key. ``GET /`` lists them as JSON, ``GET /KEY`` delivers one, with a token in ``Authorization``.

    ``fault`` is asked first for every request: None lets it through, an answer is given instead.
    """

    def __init__(self, documents: Mapping[str, str]) -> None:
        self.documents = dict(documents)
        self.fault: Callable[[str], Answer | None] = lambda path: None
        self.requests: Counter[str] = Counter()
        """By path."""
        self.answers: list[tuple[float, str, int]] = []
        """When (monotonic), path and status of every answer."""
        shelf = self

        class Serving(Handler):
            def do_GET(self) -> None:
                path = unquote(self.path)
                shelf.requests[path] += 1
                fault = shelf.fault(path)
                if fault == DROP:
                    self.close_connection = True
                    self.connection.shutdown(2)
                    return
                status, headers = fault or (200, {})
                body = b""
                if fault is None and path == "/":
                    body = json.dumps({key: str(hash(text)) for key, text in sorted(shelf.documents.items())}).encode()
                elif fault is None:
                    text = shelf.documents.get(path.removeprefix("/"))
                    status, body = (404, b"") if text is None else (200, text.encode())
                shelf.answers.append((time.monotonic(), path, status))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        super().__init__(Serving)

    def silence(self, path: str) -> Answer | None:
        """For ``fault``: accept, and never answer."""
        self.over.wait()
        return DROP


@contextmanager
def shelf(documents: Mapping[str, str]) -> Iterator[Shelf]:
    """A shelf for as long as the context lasts."""
    with closing(Shelf(documents)) as opened:
        yield opened


class Storm:
    """A ``fault``: from the first request for a document on, everything is throttled for ``seconds``."""

    def __init__(self, seconds: float, retry_after: float | None = None) -> None:
        self._seconds = seconds
        self._retry_after = retry_after
        self._began: float | None = None
        self._lock = threading.Lock()
        self.refused = 0

    def __call__(self, path: str) -> Answer | None:
        with self._lock:
            if self._began is None and path != "/":
                self._began = time.monotonic()
            if self._began is None or time.monotonic() - self._began > self._seconds:
                return None
            self.refused += 1
        return throttled(self._retry_after)
