"""One contract for every place that files can lie in: a local folder, and a bucket of a server that speaks S3."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from kb_pipeline.flow.errors import ErrorClass, classify
from kb_pipeline.storage import bucket as bucket_module
from kb_pipeline.storage.bucket import TAIL_BYTES, Bucket, S3Location
from kb_pipeline.storage.files import (
    Files,
    FilesError,
    FilesMisconfigured,
    FilesUnavailable,
    Folder,
    aside_path,
    is_abandoned,
)
from kb_pipeline_tests.loopback import Handler, LoopbackServer
from kb_pipeline_tests.servers import S3Server, free_port

AWKWARD = ["%41%2f", "ü €", "a b+c&d=e", "#1", "~x~", "q?x", "[z]", "名前.json", "a" * 200]


@pytest.fixture(params=["folder", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    if request.param == "folder":
        return Folder(tmp_path / "kept", tmp_path / "kept" / "staging")
    return Bucket(request.getfixturevalue("s3").location())


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    return tmp_path / "finished"


def keys(files: Files, folder: str = "") -> list[str]:
    return sorted(each.key for each in files.list(folder) if not each.key.startswith("staging/"))


def test_what_was_put_is_got_and_found_and_listed(files: Files) -> None:
    before = time.time()
    files.put("a/b/c.json", b"content")
    assert files.get("a/b/c.json") == b"content"
    (listed,) = files.list("a")
    assert listed == files.find("a/b/c.json")
    assert (listed.key, listed.size) == ("a/b/c.json", 7)
    assert abs(listed.modified - before) < 60
    with files.open("a/b/c.json") as opened:
        assert opened.read() == b"content"


def test_what_is_not_there_is_told_by_its_name(files: Files) -> None:
    files.put("a/there", b"")
    assert files.find("a/none") is None
    assert files.find("a") is None
    assert files.find("a/there/below") is None
    for read in (files.get, files.open, files.stream):
        with pytest.raises(FileNotFoundError) as told:
            read("a/none")
        assert "a/none" in str(told.value)
    assert keys(files, "none") == []
    files.delete(["a/none", "none/none"])


def test_a_put_replaces(files: Files) -> None:
    files.put("k", b"old, and longer")
    files.put("k", b"new")
    assert files.get("k") == b"new"
    assert keys(files) == ["k"]


def test_a_file_is_created_once(files: Files) -> None:
    assert files.create("releases/1.json", b"first")
    assert not files.create("releases/1.json", b"second")
    assert files.get("releases/1.json") == b"first"
    files.delete(["releases/1.json"])
    assert files.create("releases/1.json", b"third")
    assert keys(files) == ["releases/1.json"]


def test_of_many_that_create_a_file_at_once_one_does(files: Files) -> None:
    with ThreadPoolExecutor(8) as executor:
        created = list(executor.map(lambda number: files.create("k", str(number).encode()), range(8)))
    assert created.count(True) == 1
    assert files.get("k") == str(created.index(True)).encode()


def test_a_kept_file_is_moved_in_and_the_first_one_stays(files: Files, finished: Path) -> None:
    finished.write_bytes(b"first")
    assert files.keep("t/1.parquet", finished)
    assert not finished.exists()
    finished.write_bytes(b"second")
    assert not files.keep("t/1.parquet", finished)
    assert not finished.exists()
    assert files.get("t/1.parquet") == b"first"
    finished.write_bytes(b"third")
    assert files.keep("t/1.parquet", finished, replace=True)
    assert files.get("t/1.parquet") == b"third"
    assert keys(files) == ["t/1.parquet"]


def test_a_large_file_goes_in_whole_in_parts(files: Files, finished: Path, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 21  # more than two parts
    finished.write_bytes(content)
    assert files.keep("large", finished)
    assert not finished.exists()
    assert files.get("large") == content
    finished.write_bytes(b"x" * len(content))
    assert not files.keep("large", finished)
    assert not finished.exists()
    assert files.get("large") == content
    finished.write_bytes(b"y" * len(content))
    assert files.keep("large", finished, replace=True)
    assert files.get("large")[:2] == b"yy"


def test_lists_go_by_whole_folder_names(files: Files) -> None:
    for key in ["a/1", "a/deep/2", "ab/3", "b", "a.x"]:
        files.put(key, b"")
    assert keys(files, "a") == ["a/1", "a/deep/2"]
    assert keys(files, "a/deep") == ["a/deep/2"]
    assert keys(files) == ["a.x", "a/1", "a/deep/2", "ab/3", "b"]


def test_deleted_is_deleted_and_a_folder_can_be_used_again(files: Files, finished: Path) -> None:
    for key in ["a/1", "a/2", "b"]:
        files.put(key, b"")
    files.delete(["a/1", "a/2", "a/1"])
    assert keys(files) == ["b"]
    finished.write_bytes(b"again")
    files.keep("a/1", finished)
    assert keys(files) == ["a/1", "b"]
    files.delete([])
    files.delete(["b"])
    assert keys(files) == ["a/1"]


def test_awkward_names_are_kept_as_they_are(files: Files) -> None:
    for number, name in enumerate(AWKWARD):
        files.put(f"d/{name}", str(number).encode())
    assert keys(files, "d") == sorted(f"d/{name}" for name in AWKWARD)
    for number, name in enumerate(AWKWARD):
        assert files.get(f"d/{name}") == str(number).encode()
    files.delete([f"d/{name}" for name in AWKWARD])
    assert keys(files) == []


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../../b", "a/./b", "a\\b", "a\0b"])
def test_a_key_that_leaves_the_place_is_refused(files: Files, key: str, finished: Path) -> None:
    finished.write_bytes(b"")
    calls = [
        files.get,
        files.open,
        files.stream,
        files.find,
        lambda k: files.put(k, b""),
        lambda k: files.keep(k, finished),
        files.uri,
    ]
    for call in [*calls, lambda k: files.delete([k])]:
        with pytest.raises(ValueError, match="no key"):
            call(key)


@pytest.mark.parametrize("size", [0, 1, TAIL_BYTES - 1, TAIL_BYTES, TAIL_BYTES + 1, 3 * TAIL_BYTES + 5])
def test_an_open_file_reads_at_any_place(files: Files, finished: Path, size: int) -> None:
    content = os.urandom(size)
    finished.write_bytes(content)
    files.keep("f", finished)
    with files.open("f") as opened:
        assert opened.size() == size
        for start, length in [(0, 10), (size // 2, 1_000), (max(0, size - 7), 100), (0, size + 5), (size, 1)]:
            opened.seek(start)
            assert opened.read(length) == content[start : start + length]
        opened.seek(0)
        assert opened.read() == content
        assert opened.read() == b""
    with files.stream("f") as stream:
        assert stream.read(3) == content[:3]
        assert stream.read() == content[3:]
        assert stream.read(1) == b""


def test_a_reader_never_gets_bytes_of_two_files(files: Files, finished: Path) -> None:
    content = os.urandom(3 * TAIL_BYTES)
    finished.write_bytes(content)
    files.keep("f", finished)
    with files.open("f") as opened:
        assert opened.read(10) == content[:10]
        finished.write_bytes(os.urandom(3 * TAIL_BYTES))
        files.keep("f", finished, replace=True)
        if isinstance(files, Folder):
            assert opened.read() == content[10:]
        else:
            with pytest.raises(FilesError, match="was replaced while it was being read: run again"):
                opened.read()


def test_a_reader_of_a_deleted_file_reads_on_or_is_told(files: Files, finished: Path) -> None:
    content = os.urandom(3 * TAIL_BYTES)
    finished.write_bytes(content)
    files.keep("f", finished)
    with files.open("f") as opened:
        files.delete(["f"])
        if isinstance(files, Folder):
            assert opened.read() == content
        else:
            with pytest.raises(FilesError, match="was removed while it was being read: run again"):
                opened.read()


def test_a_parquet_table_is_read_by_columns(files: Files, finished: Path) -> None:
    rows = pa.table({"key": [str(n) for n in range(1_000)], "text": [os.urandom(600).hex() for _ in range(1_000)]})
    pq.write_table(rows, finished, row_group_size=250)
    files.keep("t.parquet", finished)
    with files.open("t.parquet") as opened, pq.ParquetFile(opened) as table:
        assert table.metadata.num_rows == 1_000
        assert table.read(["key"]).column(0).to_pylist() == [str(n) for n in range(1_000)]
        assert table.read_row_group(2).equals(rows.slice(500, 250))


def test_uris_tell_where_a_file_lies(tmp_path: Path) -> None:
    assert Folder(tmp_path, tmp_path / "aside").uri("a/b") == str(tmp_path / "a/b")
    assert Bucket(S3Location("reports", "kb/one")).uri("a/b") == "s3://reports/kb/one/a/b"
    assert Bucket(S3Location("reports")).uri("a/b") == "s3://reports/a/b"


def test_a_prefix_keeps_neighbours_apart(s3: S3Server) -> None:
    location = s3.location("one")
    one, other = Bucket(location), Bucket(s3.location("one-more", location.bucket))
    one.put("a", b"1")
    other.put("a", b"2")
    assert (keys(one), keys(other)) == (["a"], ["a"])
    one.delete(["a"])
    assert s3.keys(location.bucket) == {"one-more/a"}


class Contract(RuleBasedStateMachine):
    """Any order of operations leaves what a dictionary would hold."""

    make: staticmethod  # type: ignore[type-arg]

    def __init__(self) -> None:
        super().__init__()
        self.files, self.finished = self.make()
        self.model: dict[str, bytes] = {}

    names = st.sampled_from(["a", "b/c", "b/d", "b/e/f", "g/h"])
    contents = st.binary(max_size=20)

    @rule(key=names, data=contents)
    def put(self, key: str, data: bytes) -> None:
        self.files.put(key, data)
        self.model[key] = data

    @rule(key=names, data=contents, replace=st.booleans())
    def keep(self, key: str, data: bytes, replace: bool) -> None:
        self.finished.write_bytes(data)
        assert self.files.keep(key, self.finished, replace=replace) == (replace or key not in self.model)
        if replace:
            self.model[key] = data
        self.model.setdefault(key, data)

    @rule(gone=st.sets(names))
    def delete(self, gone: set[str]) -> None:
        self.files.delete(gone)
        for key in gone:
            self.model.pop(key, None)

    @rule()
    def compare(self) -> None:
        assert {each.key: each.size for each in self.files.list() if not each.key.startswith("staging/")} == {
            key: len(data) for key, data in self.model.items()
        }
        assert {each.key for each in self.files.list("b")} == {key for key in self.model if key.startswith("b/")}
        for key, data in self.model.items():
            assert self.files.get(key) == data


def test_any_order_of_operations(s3: S3Server, tmp_path: Path) -> None:
    numbers = iter(range(1_000_000))

    def folder() -> tuple[Files, Path]:
        root = tmp_path / str(next(numbers))
        return Folder(root, root / "staging"), tmp_path / "finished"

    location = s3.location("many")

    def bucket() -> tuple[Files, Path]:
        return Bucket(s3.location(f"many-{next(numbers)}", location.bucket)), tmp_path / "finished"

    for make, examples in ((folder, 30), (bucket, 10)):
        machine = type("Machine", (Contract,), {"make": staticmethod(make)})
        options = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
        run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=15, **options))


# -------------------------------------------------------------------------------------------------- the local folder


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Folder(tmp_path / "kept", tmp_path / "aside")
    files.put("k", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.put("k", b"new")
    monkeypatch.undo()
    assert files.get("k") == b"old"
    assert list((tmp_path / "aside").iterdir()) == []


def test_what_gone_processes_had_aside_is_abandoned_and_what_lives_is_not(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine = aside_path(tmp_path, "alpha.parquet")
    here = mine.name.split("~")[1]
    dead = tmp_path / f"alpha~{here}~{gone.pid}~0123456789ab"
    elsewhere = tmp_path / f"alpha~other-host~{gone.pid}~0123456789ab"
    elsewhere_long_ago = tmp_path / f"beta~other-host~{os.getpid()}~0123456789ab"
    for path in (mine, dead, elsewhere, elsewhere_long_ago, tmp_path / "stranger"):
        path.touch()
    os.utime(elsewhere_long_ago, (time.time() - 90_000,) * 2)
    assert here == platform.node()
    judged = {path.name for path in tmp_path.iterdir() if is_abandoned(path)}
    assert judged == {dead.name, elsewhere_long_ago.name, "stranger"}


# -------------------------------------------------------------------------------------------------- requests


@contextmanager
def answering(status: int, body: str) -> Iterator[tuple[str, list[str]]]:
    """A server that gives every request the same answer; its address and the requests it saw."""
    seen: list[str] = []

    class Answering(Handler):
        def answer(self) -> None:
            seen.append(f"{self.command} {self.path}")
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            data = b"" if self.command == "HEAD" else body.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    with closing(LoopbackServer(Answering)) as server:
        yield server.url, seen


def at(url: str) -> Bucket:
    return Bucket(S3Location("reports", "kb", url, "us-east-1", "an-access-key", "a-secret-key"))


def error(code: str) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>m</Message></Error>'


def every_call(files: Bucket, tmp_path: Path) -> Iterator[FilesError]:
    """What each call raises."""
    finished = tmp_path / "finished"
    finished.write_bytes(b"x")
    for call in (
        lambda: files.get("k"),
        lambda: files.put("k", b"x"),
        lambda: files.create("k", b"x"),
        lambda: files.keep("k", finished),
        lambda: files.open("k"),
        lambda: files.stream("k"),
        lambda: list(files.list()),
        lambda: files.delete(["k"]),
    ):
        with pytest.raises(FilesError) as told:
            call()
        yield told.value


def test_a_missing_bucket_is_named(s3: S3Server, tmp_path: Path) -> None:
    files = Bucket(s3.location(bucket="no-such-bucket"))
    for told in every_call(files, tmp_path):
        assert isinstance(told, FilesMisconfigured)
        assert str(told) == f"there is no bucket no-such-bucket at {s3.url}: make it, or correct storage.url"
        assert classify(told) is ErrorClass.NOT_FOUND


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
def test_refused_credentials_are_told_without_showing_them(code: str, tmp_path: Path) -> None:
    with answering(403, error(code)) as (url, _):
        for told in every_call(at(url), tmp_path):
            assert isinstance(told, FilesMisconfigured)
            assert "refuses the credentials for the bucket reports" in str(told)
            assert classify(told) is ErrorClass.AUTHENTICATION
            assert "an-access-key" not in str(told)
            assert "a-secret-key" not in str(told)


def test_a_permission_that_lacks_is_told(tmp_path: Path) -> None:
    with answering(403, error("AccessDenied")) as (url, _):
        for told in every_call(at(url), tmp_path):
            assert isinstance(told, FilesMisconfigured)
            assert "doesn't allow s3://reports/kb" in str(told)
            assert classify(told) is ErrorClass.PERMISSION


def test_a_server_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "_RETRIES", 1)
    url = f"http://127.0.0.1:{free_port()}"
    for told in every_call(at(url), tmp_path):
        assert isinstance(told, FilesUnavailable)
        assert str(told) == f"{url} can't be reached: Connection refused"
        assert classify(told) is ErrorClass.NETWORK


def test_a_server_in_trouble_is_tried_again_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "_RETRIES", 1)
    with answering(503, error("SlowDown")) as (url, seen):
        with pytest.raises(FilesUnavailable, match="503") as told:
            at(url).get("k")
        assert classify(told.value) is ErrorClass.RATE_LIMITING
        assert len(seen) == 2


def test_plain_http_is_spoken_only_where_the_endpoint_says_so() -> None:
    assert not S3Location("b", endpoint_url="https://s3.example.org").allow_http
    assert not S3Location("b").allow_http
    assert S3Location("b", endpoint_url="HTTP://127.0.0.1:9000").allow_http
    assert "allow_http" not in S3Location("b", endpoint_url="https://s3.example.org").lance_options()


def test_secrets_do_not_show() -> None:
    shown = repr(S3Location("b", "p", access_key="an-access-key", secret_key="a-secret-key"))
    assert shown == "S3Location('s3://b/p')"


def test_a_small_table_is_one_request(s3: S3Server, tmp_path: Path) -> None:
    finished = tmp_path / "finished"
    rows = pa.table({"key": [str(n) for n in range(1_000)]})
    pq.write_table(rows, finished)
    files = Bucket(s3.location())
    files.keep("t", finished)
    requests = []
    original = files.read
    files.read = lambda *arguments: requests.append(arguments) or original(*arguments)  # type: ignore[func-returns-value,method-assign]
    with files.open("t") as opened, pq.ParquetFile(opened) as table:
        assert table.read().equals(rows)
    assert requests == []
