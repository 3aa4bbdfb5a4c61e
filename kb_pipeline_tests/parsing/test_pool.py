"""The parser pool: what its users see of limits, deaths and answers, and what a parser sees of the world."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path

import pytest

from kb_pipeline.parsing import network
from kb_pipeline.parsing.child import Limits, Unavailable
from kb_pipeline.parsing.document import Block, BlockKind
from kb_pipeline.parsing.pool import ParserPool, shared_pool
from kb_pipeline.statuses import Status
from kb_pipeline_tests.parsing.pdf_builder import build_pdf

WORKER = "kb_pipeline_tests.parsing.misbehaving_worker"
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")


@pytest.fixture
def pool() -> Iterator[ParserPool]:
    """One process, so that it is known which one an item meets."""
    with ParserPool(Limits(seconds=60, memory_mib=256, reply_bytes=1_000_000), size=1, worker=WORKER) as pool:
        yield pool


def text(pool: ParserPool, name: str, data: bytes = b"") -> str:
    """The text of an item that is parsed."""
    outcome = pool.parse(name, data)
    assert outcome.document is not None, outcome.detail
    return outcome.document.text


def ended(pid: int) -> bool:
    """Wait for the end of a process."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 30)[0])
    finally:
        os.close(descriptor)


class TestAnswers:
    def test_the_real_worker_parses_every_kind_of_item(self) -> None:
        with ParserPool() as pool:
            pdf = pool.parse("a.pdf", build_pdf(["Hello parser"], title="A title"))
            markdown = pool.parse("a.md", b"# One\n\ntwo")
            bad = pool.parse("a.json", b"{")
            unknown = pool.parse("a.zip", b"PK\x03\x04")
            empty = pool.parse("a.txt", b" \n")
        assert pdf.document is not None
        assert (pdf.document.text, pdf.document.title, pdf.parser_id) == ("Hello parser", "A title", "pdf/2")
        assert pdf.document.blocks == (Block(BlockKind.PARAGRAPH, 0, 12, (), 1),)
        assert markdown.document is not None
        assert [block.kind for block in markdown.document.blocks] == [BlockKind.HEADING, BlockKind.PARAGRAPH]
        assert (bad.status, bad.parser_id) == (Status.CORRUPT, "json/1")
        assert (unknown.status, unknown.detail) == (Status.EXCLUDED, "no_parser")
        assert empty.status is Status.EMPTY

    def test_documents_come_back_whole(self, pool: ParserPool) -> None:
        content = "Grüße 😀 \ufffe \x00 end"
        document = pool.parse("echo", content.encode()).document
        assert document is not None
        assert document.text == content
        assert document.blocks == (Block(BlockKind.PARAGRAPH, 0, len(content), ("Ä",), 3),)

    def test_lone_surrogates_become_replacement_characters(self, pool: ParserPool) -> None:
        document = pool.parse("surrogates", b"").document
        assert document is not None
        assert (document.text, document.title, document.metadata) == ("\ufffd x", "\ufffd", {"\ufffd": "\ufffd"})
        assert document.blocks[0].heading_path == ("a\ufffdb",)

    @pytest.mark.parametrize("size", [0, 1, 70_000, 500_000])
    def test_items_of_any_size_pass_through_the_pipes(self, pool: ParserPool, size: int) -> None:
        assert text(pool, "echo", b"x" * size) == "x" * size

    @pytest.mark.parametrize(
        ("name", "status", "message"),
        [
            ("defect", Status.CRASHED, "ZeroDivisionError: a defect"),
            ("encrypted", Status.ENCRYPTED, "It needs a password."),
            ("overlapping_blocks", Status.CRASHED, "nonsense"),
            ("vanished", Status.CRASHED, "nonsense"),
            ("nonsense", Status.CRASHED, "nonsense"),
            ("huge", Status.TOO_LARGE, "the limit is 1,000,000"),
        ],
    )
    def test_answers_are_checked(self, pool: ParserPool, name: str, status: Status, message: str) -> None:
        outcome = pool.parse(name, b"")
        assert outcome.status is status
        assert message in outcome.detail
        assert text(pool, "echo", b"after") == "after"

    def test_noise_reaches_nobody(self, pool: ParserPool, capfd: pytest.CaptureFixture[str]) -> None:
        assert text(pool, "noise", b"text") == "text"
        pool.close()
        assert capfd.readouterr() == ("", "")


class TestDeaths:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("segfault", "signal 11 (SIGSEGV)"),
            ("trap", "signal 5 (SIGTRAP)"),
            ("kill", "signal 9 (SIGKILL)"),
            ("leave", "exit status 3"),
            ("leave_politely", "exit status 4"),
        ],
    )
    @pytest.mark.parametrize("worn", [False, True])
    def test_a_death_costs_one_item(self, pool: ParserPool, name: str, message: str, worn: bool) -> None:
        if worn:
            assert text(pool, "echo", b"before") == "before"
        outcome = pool.parse(name, b"")
        assert outcome.status is Status.CRASHED
        assert message in outcome.detail
        assert text(pool, "echo", b"after") == "after"

    @pytest.mark.parametrize("name", ["die_unless_fresh", "kill_unless_fresh"])
    def test_an_item_is_not_blamed_for_a_worn_process(self, pool: ParserPool, name: str) -> None:
        text(pool, "echo", b"x")
        assert text(pool, name, b"text") == "text"

    def test_an_item_is_not_blamed_for_what_the_process_says_after_another(self, pool: ParserPool) -> None:
        futures = [pool.submit("aftermath" if i % 7 == 0 else "echo", str(i).encode()) for i in range(50)]
        documents = [future.result().document for future in futures]
        assert [each.text for each in documents if each is not None] == [str(i) for i in range(50)]

    @pytest.mark.parametrize("size", [1, 2])
    @pytest.mark.parametrize("poison", ["segfault", "leave", "exhaust_memory", "overlapping_blocks", "nonsense", "huge"])
    def test_neighbours_of_a_poisoned_item_are_not_lost(self, size: int, poison: str) -> None:
        limits = Limits(memory_mib=64, reply_bytes=1_000_000)
        with ParserPool(limits, size=size, worker=WORKER) as pool:
            names = [poison if i in (3, 4, 12) else "echo" for i in range(20)]
            futures = [pool.submit(name, str(i).encode()) for i, name in enumerate(names)]
            outcomes = [future.result() for future in futures]
        for i, (name, outcome) in enumerate(zip(names, outcomes, strict=True)):
            if name == poison:
                assert outcome.status.quarantined
            else:
                assert outcome.document is not None
                assert outcome.document.text == str(i)

    def test_a_process_killed_at_idle_is_replaced(self, pool: ParserPool) -> None:
        text(pool, "echo", b"x")
        (pid,) = pool.pids()
        os.kill(pid, signal.SIGKILL)
        assert text(pool, "echo", b"after") == "after"
        assert pool.pids() != [pid]

    def test_processes_killed_again_and_again_lose_nothing(self) -> None:
        stop = threading.Event()
        with ParserPool(size=2, worker=WORKER) as pool:

            def kill_some() -> None:
                # Slower than a process can start: an item whose process is killed twice is blamed.
                while not stop.wait(0.7):
                    for pid in pool.pids()[:1]:
                        os.kill(pid, signal.SIGKILL)

            killer = threading.Thread(target=kill_some)
            killer.start()
            try:
                for start in range(0, 3_000, 100):
                    futures = {i: pool.submit("echo", str(i).encode()) for i in range(start, start + 100)}
                    for i, future in futures.items():
                        document = future.result().document
                        assert document is not None
                        assert document.text == str(i)
            finally:
                stop.set()
                killer.join()

    def test_a_process_is_replaced_after_its_share(self) -> None:
        with ParserPool(size=1, items_per_process=2, worker=WORKER) as pool:
            futures = [pool.submit("echo", b"x") for _ in range(5)]
            documents = [future.result().document for future in futures]
        assert [each.metadata["served"] for each in documents if each is not None] == ["1", "2", "1", "2", "1"]

    def test_a_worker_that_does_not_start_blames_no_item(self) -> None:
        with (
            ParserPool(worker="kb_pipeline_tests.no_such_module") as pool,
            pytest.raises(Unavailable, match=r"No module named .kb_pipeline_tests\.no_such_module"),
        ):
            pool.parse("a.pdf", b"x")

    @linux
    @pytest.mark.parametrize("name", ["hang", "burn"])
    def test_processes_end_with_a_parent_that_is_killed(self, name: str) -> None:
        script = f"""
import os, sys
from kb_pipeline.parsing.pool import ParserPool
pool = ParserPool(size=2, worker={WORKER!r})
pool.submit({name!r}, b"")
while len(pool.pids()) < 1:
    pass
pool.parse("echo", b"x")
print(*pool.pids(), flush=True)
os.kill(os.getpid(), 9)
"""
        done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False, timeout=120)
        assert done.returncode == -signal.SIGKILL
        pids = [int(each) for each in done.stdout.split()]
        assert len(pids) == 2
        assert all(map(ended, pids))

    @linux
    def test_processes_end_with_the_interpreter(self) -> None:
        script = """
from kb_pipeline.parsing.child import Limits
from kb_pipeline.parsing.pool import shared_pool
pool = shared_pool(Limits(), 1)
pool.parse("a.txt", b"x")
print(*pool.pids(), flush=True)
"""
        done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True, timeout=120)
        assert ended(int(done.stdout))

    @linux
    def test_closing_ends_what_is_being_parsed(self) -> None:
        pool = ParserPool(size=1, worker=WORKER)
        text(pool, "echo", b"x")
        (pid,) = pool.pids()
        hanging = [pool.submit("hang", b"") for _ in range(20)]
        pool.close()
        assert ended(pid)
        for future in hanging:
            with pytest.raises(Unavailable):
                future.result(timeout=0)
        with pytest.raises(Unavailable):
            pool.submit("echo", b"x")


class TestLimits:
    @pytest.mark.parametrize("name", ["hang", "burn"])
    def test_a_slow_item_is_stopped_and_its_neighbours_are_parsed(self, name: str) -> None:
        with ParserPool(Limits(seconds=3), size=1, worker=WORKER) as pool:
            futures = [pool.submit(name if i == 2 else "echo", str(i).encode()) for i in range(6)]
            outcomes = [future.result() for future in futures]
        assert outcomes[2].status is Status.TIMED_OUT
        assert "3 s" in outcomes[2].detail
        assert [outcome.status.good for outcome in outcomes] == [True, True, False, True, True, True]

    def test_running_out_of_memory_names_the_limit(self, pool: ParserPool) -> None:
        outcome = pool.parse("exhaust_memory", b"")
        assert outcome.status is Status.TOO_LARGE
        assert "256 MiB" in outcome.detail
        assert text(pool, "echo", b"after") == "after"

    @linux
    def test_the_limit_is_what_an_item_may_take_besides_the_process_itself(self, pool: ParserPool) -> None:
        assert text(pool, "take", b"220") == "220"
        assert pool.parse("take", b"270").status is Status.TOO_LARGE

    @linux
    def test_the_memory_limit_holds_for_real_parsers(self) -> None:
        large = build_pdf(["x"]) + b"%" + b" " * (200 << 20)
        with ParserPool(Limits(memory_mib=150), size=1) as pool:
            assert pool.parse("a.pdf", large).status is Status.TOO_LARGE
            assert text(pool, "a.pdf", build_pdf(["small"])) == "small"

    @linux
    def test_the_parent_takes_the_bytes_and_the_text_and_little_more(self) -> None:
        script = """
import resource
from kb_pipeline.parsing.pool import ParserPool

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

with ParserPool(size=1) as pool:
    pool.parse("a.csv", b"a,b")
    data = b"a,b,c,d\\n" * (8 << 20)
    before = peak()
    assert len(pool.parse("a.csv", data).document.text) == len(data)
    print(peak() - before)
"""
        done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True, timeout=300)
        # 64 MiB of them: the reply as it came, and the text made of it.
        assert float(done.stdout) < 2.5 * 64

    def test_texts_that_wait_to_be_taken_take_no_more_memory_than_one(self, pool: ParserPool) -> None:
        texts = [bytes([97 + i]) * 900_000 for i in range(20)]
        tracemalloc.start()
        try:
            futures = [pool.submit("echo", each) for each in texts]
            wait(futures)
            assert tracemalloc.get_traced_memory()[0] < 3_000_000
        finally:
            tracemalloc.stop()
        for future, each in zip(futures, texts, strict=True):
            document = future.result().document
            assert document is not None
            assert document.text == each.decode()
            assert future.result().document == document
        # What was taken makes room for others.
        assert pool.parse("echo", b"more").document is not None

    def test_nothing_is_written_to_files(self, pool: ParserPool, tmp_path: Path) -> None:
        target = tmp_path / "written"
        outcome = pool.parse("write", os.fsencode(target))
        assert outcome.status is Status.CRASHED
        assert "OSError" in outcome.detail
        assert not target.exists() or target.read_bytes() == b""


class TestSurroundings:
    @pytest.fixture(params=[True, False], ids=["namespace", "audit hook"])
    def isolated(self, request: pytest.FixtureRequest) -> Iterator[ParserPool]:
        if request.param and network.allowed() != "namespace":
            pytest.skip("this system grants no network namespace")
        with ParserPool(size=1, namespaces=request.param, worker=WORKER) as pool:
            yield pool

    @pytest.fixture
    def server(self) -> Iterator[int]:
        """The port of a server on the loopback device; fails the test if anything reached it."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            yield listening.getsockname()[1]
            assert not select.select([listening], [], [], 0)[0], "a parser reached the server"

    def test_a_parser_has_no_network(self, isolated: ParserPool, server: int) -> None:
        outcome = isolated.parse("connect", str(server).encode())
        assert outcome.status is Status.CRASHED
        assert "Error" in outcome.detail

    def test_a_namespace_holds_for_native_code(self, server: int) -> None:
        if network.allowed() != "namespace":
            pytest.skip("this system grants no network namespace")
        with ParserPool(size=1, worker=WORKER) as pool:
            assert text(pool, "connect_natively", str(server).encode()) != "0"

    def test_the_server_of_these_tests_can_be_reached(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            socket.create_connection(listening.getsockname(), timeout=10).close()
            assert select.select([listening], [], [], 10)[0]

    def test_a_parser_starts_no_program(self, isolated: ParserPool) -> None:
        outcome = isolated.parse("launch", b"")
        assert outcome.status is Status.CRASHED
        assert "may not" in outcome.detail

    def test_a_parser_sees_no_secrets(self, isolated: ParserPool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KB_TEST_SECRET", "a-secret-value")
        facts = json.loads(text(isolated, "surroundings"))
        assert "a-secret-value" not in facts["environment"].values()
        assert set(facts["environment"]) <= {
            "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "MALLOC_ARENA_MAX", "OMP_NUM_THREADS",
            "RAYON_NUM_THREADS", "TOKIO_WORKER_THREADS", "TZ",
        }  # fmt: skip
        assert facts["folder"] == []
        # Standard streams, two pipes, and the one that lists them.
        assert facts["open"] <= 6

    def test_in_a_namespace_a_parser_cannot_look_into_its_parent(self) -> None:
        if network.allowed() != "namespace":
            pytest.skip("this system grants no network namespace")
        with ParserPool(size=1, worker=WORKER) as pool:
            assert json.loads(text(pool, "surroundings"))["parent"] == "PermissionError"

    def test_a_process_loads_parsers_only(self) -> None:
        script = """
import sys
import kb_pipeline.parsing.worker
print(*sys.modules)
"""
        done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True, text=True)
        loaded = {module.partition(".")[0] for module in done.stdout.split()}
        assert not loaded & {"torch", "dagster", "pandas", "numpy", "pyarrow", "lancedb", "pydantic", "transformers"}


class TestSharing:
    def test_nothing_starts_before_there_is_work(self) -> None:
        with ParserPool(worker=WORKER) as pool:
            assert pool.pids() == []

    @linux
    def test_idle_processes_end(self) -> None:
        with ParserPool(size=1, idle_seconds=0.01, worker=WORKER) as pool:
            pids = [int(pool.parse("echo", b"x").document.title or "") for _ in range(1)]  # type: ignore[union-attr]
            assert all(map(ended, pids))
            assert text(pool, "echo", b"again") == "again"

    def test_one_slow_item_does_not_hold_up_the_other_process(self) -> None:
        with ParserPool(Limits(seconds=600), size=2, worker=WORKER) as pool:
            pool.submit("hang", b"")
            assert [text(pool, "echo", str(i).encode()) for i in range(50)] == [str(i) for i in range(50)]

    def test_threads_share_the_processes(self) -> None:
        texts: dict[tuple[int, int], str] = {}
        with ParserPool(size=2, worker=WORKER) as pool:

            def run(thread: int) -> None:
                futures = [pool.submit("echo", f"{thread} {i}".encode()) for i in range(50)]
                for i, future in enumerate(futures):
                    document = future.result().document
                    texts[thread, i] = document.text if document is not None else ""

            threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            # The threads are gone; what was started for them stays.
            assert text(pool, "echo", b"after") == "after"
            assert len(pool.pids()) <= 2
        assert texts == {(thread, i): f"{thread} {i}" for thread in range(8) for i in range(50)}

    def test_partitions_with_the_same_limits_share_one_pool(self) -> None:
        assert shared_pool(Limits(seconds=7), 1) is shared_pool(Limits(seconds=7), 1)
        assert shared_pool(Limits(seconds=7), 1) is not shared_pool(Limits(seconds=8), 1)
