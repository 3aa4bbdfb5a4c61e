"""HTTP servers on the loopback that answer as told: what clients raise for it is what the tests look at.

What belongs here: one server with canned answers, plain or over TLS. What doesn't: clients.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from kb_pipeline_tests.loopback import Handler, LoopbackServer

Fault = Literal["", "drop", "hang", "cut"]


class Answers(LoopbackServer):
    """A server whose every answer is the one that was set last."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.status = 200
        self.body = b""
        self.headers: Mapping[str, str] = {}
        self.fault: Fault = ""
        answers = self

        class Answering(Handler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if answers.fault == "drop":
                    self.close_connection = True
                    self.connection.shutdown(2)
                    return
                if answers.fault == "hang":
                    answers.over.wait(30)
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

        super().__init__(Answering, context)

    def set(self, status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None, fault: Fault = "") -> None:
        """What it answers from now on."""
        self.status, self.body, self.headers, self.fault = status, body, headers or {}, fault


@contextmanager
def served(context: ssl.SSLContext | None = None) -> Iterator[Answers]:
    """A server for as long as the context lasts."""
    with closing(Answers(context)) as answers:
        yield answers


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
