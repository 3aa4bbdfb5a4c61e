"""What third parties' exceptions mean: one row a case, raised by the library itself wherever it can be made to."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.client
import io
import json
import lzma
import os
import socket
import sqlite3
import ssl
import threading
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests

from kb_pipeline.flow import foreign
from kb_pipeline.flow.errors import Diagnosis, ErrorClass, classify, diagnose
from kb_pipeline_tests.flow.answers import Answers, Fault, certificate, closed_port, served

AUTH, PERMISSION, RATE, NETWORK = (
    ErrorClass.AUTHENTICATION,
    ErrorClass.PERMISSION,
    ErrorClass.RATE_LIMITING,
    ErrorClass.NETWORK,
)
NOT_FOUND, CORRUPT, EXHAUSTED = ErrorClass.NOT_FOUND, ErrorClass.DATA_CORRUPTION, ErrorClass.RESOURCE_EXHAUSTION
CONFLICT, SOURCE = ErrorClass.CONFLICT, ErrorClass.SOURCE

Call = Callable[[str], object]
"""Asks a server at a URL for something, as one library does."""


@pytest.fixture(scope="module")
def server() -> Iterator[Answers]:
    with served() as answers:
        yield answers


def raised(call: Callable[[], object]) -> BaseException:
    """What a call raises."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - what it is, is the question
        return error
    pytest.fail("nothing was raised")


# Clients. Each makes one request, without trying again, and raises what its library raises.


def _urllib(url: str) -> object:
    with urllib.request.urlopen(url, timeout=1) as answer:
        return answer.read()


def _requests(url: str) -> object:
    answer = requests.get(url, timeout=1)
    answer.raise_for_status()
    return answer.content


def _urllib3(url: str) -> object:
    import urllib3

    policy = urllib3.Retry(0, status_forcelist=range(400, 600))
    return urllib3.PoolManager().request("GET", url, retries=policy, timeout=1).data


def _httplib2(url: str) -> object:
    import httplib2

    return httplib2.Http(timeout=1).request(url)


def _googleapiclient(url: str) -> object:
    import httplib2
    from googleapiclient.http import HttpRequest

    return HttpRequest(httplib2.Http(timeout=1), lambda response, content: content, url).execute()


def _google_api_core(url: str) -> object:
    from google.api_core.exceptions import from_http_response

    answer = requests.get(url, timeout=1)
    if answer.status_code >= 400:
        raise from_http_response(answer)
    return answer.content


def _azure_core(url: str) -> object:
    """As azure-storage does: known statuses have classes of their own, others are HttpResponseError."""
    from azure.core import PipelineClient, exceptions
    from azure.core.pipeline.policies import RetryPolicy
    from azure.core.rest import HttpRequest

    client: Any = PipelineClient(url, policies=[RetryPolicy(retry_total=0)])
    with client:
        answer = client.send_request(HttpRequest("GET", url), connection_timeout=1, read_timeout=1, stream=True)
        known = {
            401: exceptions.ClientAuthenticationError,
            403: exceptions.ClientAuthenticationError,
            404: exceptions.ResourceNotFoundError,
            409: exceptions.ResourceExistsError,
        }
        exceptions.map_error(answer.status_code, answer, known)
        if answer.status_code >= 400:
            raise exceptions.HttpResponseError(response=answer)
        return b"".join(answer.iter_bytes())


def _botocore(url: str) -> object:
    import boto3
    from botocore.config import Config

    config = Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=1, s3={"addressing_style": "path"})
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=url, config=config, **keys)
    return client.get_object(Bucket="bucket", Key="key")["Body"].read()


def _obstore(url: str) -> object:
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        "bucket",
        endpoint=url,
        access_key_id="a",
        secret_access_key="b",
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": "1s"},
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=3)},
    )
    return bytes(obstore.get(store, "key").bytes())


def _xml(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>no</Message></Error>'.encode()


def _google(reason: str) -> bytes:
    return json.dumps({"error": {"code": 0, "message": "no", "errors": [{"reason": reason, "message": "no"}]}}).encode()


@dataclass(frozen=True)
class Row:
    """One answer, and what it means to those who know how to ask for it."""

    clients: tuple[Call, ...]
    status: int
    means: ErrorClass
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    retry_after: float | None = None
    fault: Fault = ""

    def __str__(self) -> str:
        words = self.body.decode().partition("<Code>")[2].partition("<")[0] if self.body.startswith(b"<") else ""
        words = words or (json.loads(self.body)["error"]["errors"][0]["reason"] if self.body.startswith(b"{") else "")
        return f"{self.status} {words} {dict(self.headers)} {self.fault}"


PLAIN: tuple[Call, ...] = (
    _urllib,
    _requests,
    _urllib3,
    _googleapiclient,
    _google_api_core,
    _azure_core,
    _botocore,
    _obstore,
)
WITH_HEADERS: tuple[Call, ...] = (_urllib, _requests, _googleapiclient, _google_api_core, _azure_core, _botocore)
STREAMED: tuple[Call, ...] = (_urllib, _requests, _httplib2, _google_api_core, _azure_core, _botocore)

_GITHUB = (("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "9"))

ROWS = [
    Row(PLAIN, 401, AUTH),
    Row(PLAIN, 403, PERMISSION),
    Row(PLAIN, 404, NOT_FOUND),
    Row(PLAIN, 429, RATE),
    Row(PLAIN, 500, NETWORK),
    Row(PLAIN, 502, NETWORK),
    Row(PLAIN, 503, RATE),
    Row(PLAIN, 504, NETWORK),
    Row(PLAIN, 507, EXHAUSTED),
    Row(PLAIN, 418, SOURCE),
    Row((_urllib, _requests, _botocore), 410, NOT_FOUND),
    Row((_urllib, _requests, _botocore), 408, NETWORK),
    Row((_urllib, _requests, _botocore, _azure_core), 409, CONFLICT),
    # How long to wait, said in each of the ways in use.
    Row(WITH_HEADERS, 429, RATE, headers=(("Retry-After", "7"),), retry_after=7.0),
    Row(WITH_HEADERS, 503, RATE, body=_xml("SlowDown"), headers=(("Retry-After", "2.5"),), retry_after=2.5),
    Row(WITH_HEADERS, 403, RATE, headers=(("Retry-After", "60"),), retry_after=60.0),
    Row(
        WITH_HEADERS,
        429,
        RATE,
        headers=(("Retry-After", "Wed, 01 Jul 2026 10:00:40 GMT"), ("Date", "Wed, 01 Jul 2026 10:00:00 GMT")),
        retry_after=40.0,
    ),
    Row(
        (_urllib, _requests), 403, RATE, headers=(("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "9")), retry_after=9
    ),
    # S3's codes.
    *(
        Row((_botocore, _obstore), status, means, body=_xml(code))
        for status, code, means in [
            (403, "InvalidAccessKeyId", AUTH),
            (403, "SignatureDoesNotMatch", AUTH),
            (400, "ExpiredToken", AUTH),
            (403, "AccessDenied", PERMISSION),
            (503, "SlowDown", RATE),
            (404, "NoSuchBucket", NOT_FOUND),
            (400, "BadDigest", CORRUPT),
            (400, "RequestTimeout", NETWORK),
            (500, "InternalError", NETWORK),
        ]
    ),
    # Azure's, in a header.
    *(
        Row((_azure_core,), status, means, headers=(("x-ms-error-code", code),))
        for status, code, means in [
            (403, "AuthenticationFailed", AUTH),
            (403, "AuthorizationFailure", AUTH),
            (403, "AuthorizationPermissionMismatch", PERMISSION),
            (503, "ServerBusy", RATE),
            (400, "Md5Mismatch", CORRUPT),
            (404, "BlobNotFound", NOT_FOUND),
            (500, "OperationTimedOut", NETWORK),
        ]
    ),
    # Google's, in the body.
    *(
        Row((_googleapiclient, _google_api_core), status, means, body=_google(reason))
        for status, reason, means in [
            (401, "authError", AUTH),
            (403, "insufficientFilePermissions", PERMISSION),
            (403, "rateLimitExceeded", RATE),
            (403, "userRateLimitExceeded", RATE),
            (403, "dailyLimitExceeded", RATE),
            (403, "storageQuotaExceeded", EXHAUSTED),
            (404, "notFound", NOT_FOUND),
            (500, "backendError", NETWORK),
        ]
    ),
    # No answer, or half of one.
    Row((*STREAMED, _obstore), 200, NETWORK, fault="drop"),
    Row((*STREAMED, _obstore), 200, NETWORK, fault="hang"),
    Row(STREAMED, 200, NETWORK, body=b"abc", headers=(("ETag", '"x"'),), fault="cut"),
]
CASES = [(row, client) for row in ROWS for client in row.clients]


@pytest.mark.parametrize(("row", "client"), CASES, ids=[f"{client.__name__[1:]} {row}" for row, client in CASES])
def test_an_answer_means_what_it_says(row: Row, client: Call, server: Answers) -> None:
    headers = {"Content-Type": "application/json"} if row.body.startswith(b"{") else {}
    server.set(row.status, row.body, headers | dict(row.headers), row.fault)
    found = diagnose(raised(lambda: client(server.url)))
    assert found == Diagnosis(row.means, row.retry_after)


CLIENTS = (_urllib, _requests, _urllib3, _httplib2, _googleapiclient, _azure_core, _botocore, _obstore)


@pytest.mark.parametrize("client", CLIENTS)
def test_nobody_at_the_port_is_trouble_on_the_way(client: Call) -> None:
    assert diagnose(raised(lambda: client(f"http://127.0.0.1:{closed_port()}"))) == Diagnosis(NETWORK)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_name_that_nobody_knows_is_trouble_on_the_way(client: Call) -> None:
    assert diagnose(raised(lambda: client("http://nobody.invalid"))) == Diagnosis(NETWORK)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_certificate_that_nobody_vouches_for_will_be_there_tomorrow(client: Call, tmp_path: Path) -> None:
    with served(certificate(tmp_path)) as server:
        assert diagnose(raised(lambda: client(server.url))) == Diagnosis(NETWORK, lasting=True)


def test_a_certificate_that_ran_out(tmp_path: Path) -> None:
    with served(certificate(tmp_path, days=-3)) as server:
        trusting = ssl.create_default_context(cafile=str(tmp_path / "server.pem"))
        error = raised(lambda: urllib.request.urlopen(server.url, context=trusting))
    assert "expired" in str(error)
    assert diagnose(error) == Diagnosis(NETWORK, lasting=True)


def test_a_server_that_speaks_no_tls(server: Answers) -> None:
    error = raised(lambda: urllib.request.urlopen(server.url.replace("http:", "https:")))
    assert diagnose(error) == Diagnosis(NETWORK, lasting=True)


def test_a_certificate_that_the_server_wants_of_us_is_a_matter_of_who_we_are(tmp_path: Path) -> None:
    context = certificate(tmp_path)
    context.verify_mode = ssl.CERT_REQUIRED
    with served(context) as server:
        trusting = ssl.create_default_context(cafile=str(tmp_path / "server.pem"))
        with (
            socket.create_connection(("127.0.0.1", server.port)) as plain,
            trusting.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            error = raised(lambda: secured.recv(1))
    assert diagnose(error) == Diagnosis(AUTH, lasting=True)


def test_a_connection_lost_in_the_middle_of_tls_is_an_accident() -> None:
    """A server that hangs up after the client's first words."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def hang_up() -> None:
            accepted, _ = listening.accept()
            accepted.recv(65_536)
            accepted.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        error = raised(lambda: urllib.request.urlopen(f"https://127.0.0.1:{listening.getsockname()[1]}"))
        thread.join()
    assert diagnose(error) == Diagnosis(NETWORK)


def test_a_proxy_that_wants_a_password(server: Answers) -> None:
    server.set(407)
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=1)
    connection.set_tunnel("example.org")
    assert classify(raised(connection.connect)) is AUTH
    proxies = {"https": server.url}
    assert classify(raised(lambda: requests.get("https://example.org", proxies=proxies, timeout=1))) is AUTH


# Credentials that never reach a server


def test_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    import boto3

    fresh = boto3.session.Session(region_name="us-east-1")
    assert classify(raised(lambda: fresh.client("s3").list_buckets())) is AUTH


def test_a_service_account_that_is_none_and_a_token_that_is_refused(server: Answers) -> None:
    from google.auth.transport.requests import Request
    from google.oauth2 import credentials, service_account

    broken: Any = service_account.Credentials.from_service_account_info
    assert classify(raised(lambda: broken({"client_email": "x"}))) is AUTH
    stored: Any = credentials.Credentials(
        None, refresh_token="r", token_uri=f"{server.url}/token", client_id="c", client_secret="s"
    )
    server.set(400, b'{"error": "invalid_grant"}', {"Content-Type": "application/json"})
    assert classify(raised(lambda: stored.refresh(Request()))) is AUTH


def test_a_token_server_that_cannot_be_reached() -> None:
    from google.auth.transport.requests import Request
    from google.oauth2 import credentials

    stored: Any = credentials.Credentials(
        None, refresh_token="r", token_uri=f"http://127.0.0.1:{closed_port()}", client_id="c", client_secret="s"
    )
    assert classify(raised(lambda: stored.refresh(Request()))) is NETWORK


# Sockets and files


def test_the_network_is_unreachable() -> None:
    error = raised(lambda: socket.create_connection(("255.255.255.255", 80), timeout=1))
    assert isinstance(error, OSError)
    assert error.errno in (errno.ENETUNREACH, errno.EACCES)
    assert diagnose(OSError(errno.ENETUNREACH, "Network is unreachable")) == Diagnosis(NETWORK)
    if error.errno == errno.ENETUNREACH:
        assert diagnose(error) == Diagnosis(NETWORK)


@pytest.mark.parametrize(
    ("number", "means"),
    [
        (errno.EHOSTUNREACH, NETWORK),
        (errno.ENETDOWN, NETWORK),
        (errno.ESTALE, NETWORK),
        (errno.ETIMEDOUT, NETWORK),
        (errno.EDQUOT, EXHAUSTED),
        (errno.ENFILE, EXHAUSTED),
        (errno.ENOMEM, EXHAUSTED),
        (errno.EROFS, PERMISSION),
        (errno.EPERM, PERMISSION),
        (errno.ENODEV, SOURCE),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) else str(value),
)
def test_an_errno_that_cannot_be_made_here(number: int, means: ErrorClass) -> None:
    assert classify(OSError(number, os.strerror(number))) is means


def test_a_disk_that_fails_is_no_defect_of_ours() -> None:
    def unmapped() -> object:
        with open("/proc/self/mem", "rb") as memory:
            return memory.read(1)

    error = raised(unmapped)
    assert isinstance(error, OSError)
    assert error.errno == errno.EIO
    assert classify(error) is SOURCE


def test_files_and_what_becomes_of_them(tmp_path: Path) -> None:
    assert classify(raised(lambda: (tmp_path / "nothing").read_bytes())) is NOT_FOUND
    (tmp_path / "file").write_bytes(b"")
    assert classify(raised(lambda: (tmp_path / "file" / "below").read_bytes())) is SOURCE
    assert classify(raised(tmp_path.read_bytes)) is SOURCE
    assert classify(raised(lambda: (tmp_path / ("n" * 999)).read_bytes())) is SOURCE

    def full() -> None:
        with open("/dev/full", "wb", buffering=0) as device:
            device.write(b"x")

    assert classify(raised(full)) is EXHAUSTED
    assert classify(raised(lambda: os.open("/dev/null", os.O_RDONLY | os.O_DIRECTORY))) is SOURCE


def test_too_many_open_files() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
        error = raised(lambda: open("/dev/null", "rb"))  # noqa: SIM115 - it never opens
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert classify(error) is EXHAUSTED


def test_memory() -> None:
    assert classify(raised(lambda: bytearray(1 << 62))) is EXHAUSTED
    assert classify(raised(lambda: pa.allocate_buffer(1 << 60))) is EXHAUSTED
    torch = pytest.importorskip("torch")
    assert classify(torch.OutOfMemoryError("CUDA out of memory")) is EXHAUSTED
    assert classify(RuntimeError("can't start new thread")) is EXHAUSTED


def test_a_socket_that_is_read_after_it_timed_out() -> None:
    left, right = socket.socketpair()
    with left, right, left.makefile("rb") as file:
        left.settimeout(0.001)
        assert classify(raised(lambda: file.read(1))) is NETWORK
        assert classify(raised(lambda: file.read(1))) is NETWORK


# SQLite


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "x.sqlite"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE t (a)")
        made.executemany("INSERT INTO t VALUES (?)", [("x" * 500,) for _ in range(100)])
    made.close()
    return path


def _sql(path: Path, *statements: str) -> Callable[[], object]:
    def run() -> object:
        connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            return [connection.execute(each).fetchall() for each in statements]
        finally:
            connection.close()

    return run


def test_sqlite_full_locked_corrupt_and_none_at_all(database: Path, tmp_path: Path) -> None:
    grow = "INSERT INTO t SELECT a FROM t"
    assert classify(raised(_sql(database, "PRAGMA max_page_count=20", grow, grow, grow))) is EXHAUSTED
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert classify(raised(_sql(database, "SELECT count(*) FROM t"))) is CONFLICT
    holder.close()
    damaged = bytearray(database.read_bytes())
    damaged[4096:] = b"\xff" * (len(damaged) - 4096)
    database.write_bytes(damaged)
    assert classify(raised(_sql(database, "SELECT sum(length(a)) FROM t"))) is CORRUPT
    database.write_bytes(b"this is no database, whatever its name says" * 100)
    assert classify(raised(_sql(database, "SELECT 1 FROM t"))) is CORRUPT
    assert classify(raised(_sql(tmp_path / "nowhere" / "x.sqlite", "SELECT 1"))) is EXHAUSTED


def test_sqlite_that_cannot_read_or_write(database: Path) -> None:
    readonly = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    assert classify(raised(lambda: readonly.execute("INSERT INTO t VALUES (1)"))) is PERMISSION
    readonly.close()
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    assert classify(error) is EXHAUSTED
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
    assert classify(error) is CORRUPT


def test_a_wrong_statement_is_a_defect(database: Path) -> None:
    assert classify(raised(_sql(database, "SELECT nothing FROM t"))) is ErrorClass.INTERNAL


def test_databases_through_sqlalchemy(database: Path) -> None:
    import sqlalchemy as sa

    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")

    def look(url: str, **arguments: Any) -> None:
        engine = sa.create_engine(url, connect_args=arguments)
        try:
            with engine.connect() as connection:
                connection.execute(sa.text("SELECT count(*) FROM t"))
        finally:
            engine.dispose()

    assert classify(raised(lambda: look(f"sqlite:///{database}", timeout=0))) is CONFLICT
    holder.close()
    pytest.importorskip("psycopg2")
    nobody = f"postgresql+psycopg2://u:p@127.0.0.1:{closed_port()}/d"
    assert classify(raised(lambda: look(nobody))) is NETWORK


@pytest.mark.parametrize(
    ("state", "means"),
    [
        ("53100", EXHAUSTED),
        ("28P01", AUTH),
        ("42501", PERMISSION),
        ("40001", CONFLICT),
        ("57P01", NETWORK),
        ("08006", NETWORK),
    ],
)
def test_postgres_by_its_states(state: str, means: ErrorClass) -> None:
    errors = pytest.importorskip("psycopg2.errors")

    class Told(errors.lookup(state)):  # type: ignore[misc]
        pgcode = state

    Told.__module__ = "psycopg2.errors"
    assert classify(Told("no")) is means


# Archives, Parquet, downloads


def test_bytes_that_are_wrong(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", b"hello world" * 9)
    data = packed.getvalue()

    def member(changed: bytes) -> object:
        with zipfile.ZipFile(io.BytesIO(changed)) as opened:
            return opened.read("a")

    assert classify(raised(lambda: member(b"nope"))) is CORRUPT
    assert classify(raised(lambda: member(data[:-10]))) is CORRUPT
    assert classify(raised(lambda: member(data.replace(b"hello world", b"hellO world", 1)))) is CORRUPT
    assert classify(raised(lambda: zlib.decompress(b"nope"))) is CORRUPT
    assert classify(raised(lambda: gzip.decompress(b"nope"))) is CORRUPT
    assert classify(raised(lambda: lzma.decompress(b"nope"))) is CORRUPT
    table = io.BytesIO()
    pq.write_table(pa.table({"a": list(range(9_999))}), table)
    parquet = table.getvalue()
    for damaged in (b"x" * 99, parquet[:-20], parquet[:200] + b"\xff" * 60 + parquet[260:]):
        assert classify(raised(lambda damaged=damaged: pq.read_table(io.BytesIO(damaged)))) is CORRUPT  # type: ignore[misc]
    assert classify(raised(lambda: pq.read_table(tmp_path / "nothing.parquet"))) is NOT_FOUND
    # The file is opened here: Arrow removes what it opened itself and could not write, be it a device.
    with open("/dev/full", "wb", buffering=0) as full:
        assert classify(raised(lambda: pq.write_table(pa.table({"a": list(range(99_999))}), full))) is EXHAUSTED


def test_a_download_that_fails_its_checksum(server: Answers) -> None:
    wrong = hashlib.sha256(b"other bytes").digest()
    import base64

    headers = {"ETag": '"x"', "x-amz-checksum-sha256": base64.b64encode(wrong).decode()}
    server.set(200, b"these bytes", headers)
    assert classify(raised(lambda: _botocore(server.url))) is CORRUPT


def test_a_checksum_that_google_does_not_agree_with(server: Answers) -> None:
    message = {"error": {"code": 400, "message": "Provided MD5 hash doesn't match calculated MD5 hash", "errors": []}}
    server.set(400, json.dumps(message).encode(), {"Content-Type": "application/json"})
    assert classify(raised(lambda: _google_api_core(server.url))) is CORRUPT
    assert classify(raised(lambda: _googleapiclient(server.url))) is CORRUPT


def test_words_of_rust() -> None:
    assert classify(RuntimeError("lance error: LanceError(IO): No space left on device (os error 28)")) is EXHAUSTED


# How long to wait


def _http_date(seconds_from_now: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds_from_now), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 01 Jul 2026 10:00:40 GMT"}, 40.0),
        ({"retry-after": "Wed, 01 Jul 2026 09:00:00 GMT"}, 0.0),
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1782900030"}, 30.0),
        ({"x-ratelimit-remaining": "12", "x-ratelimit-reset": "1782900030"}, None),
    ],
    ids=str,
)
def test_retry_after_in_every_form(headers: Mapping[str, str], seconds: float | None) -> None:
    now = datetime(2026, 7, 1, 10, tzinfo=UTC).timestamp()
    assert foreign.retry_after(headers, now) == seconds


def test_a_date_is_measured_by_the_answers_own_clock() -> None:
    """Ours may be an hour off."""
    headers = {"retry-after": _http_date(3_620), "date": _http_date(3_600)}
    found = foreign.retry_after(headers, time.time())
    assert found == pytest.approx(20, abs=1)
