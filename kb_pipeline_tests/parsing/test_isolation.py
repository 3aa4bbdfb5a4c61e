"""The parser process: what its user sees of its limits, its deaths and its answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from kb_pipeline.parsing.document import Block, BlockKind
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.isolation import IsolatedParser, WorkerUnavailable
from kb_pipeline.statuses import Status
from kb_pipeline_tests.parsing.pdf_builder import build_pdf

WORKER = "kb_pipeline_tests.parsing.misbehaving_worker"


@pytest.fixture
def parser() -> Iterator[IsolatedParser]:
    with IsolatedParser(worker=WORKER, max_reply_bytes=100_000) as parser:
        yield parser


def failure(parser: IsolatedParser, parser_id: str) -> ParseError:
    with pytest.raises(ParseError) as caught:
        parser.parse(parser_id, b"x", "x.txt")
    return caught.value


def test_the_real_worker_parses_a_pdf() -> None:
    with IsolatedParser() as parser:
        document = parser.parse("pdf/1", build_pdf(["Hello parser"], title="A title"), "a.pdf")
    assert document.text == "Hello parser"
    assert document.title == "A title"
    assert document.blocks == (Block(BlockKind.PARAGRAPH, 0, 12, (), 1),)


def test_documents_come_back_whole(parser: IsolatedParser) -> None:
    text = "Grüße 😀 \ufffe \x00 end"
    document = parser.parse("echo", text.encode(), "x.txt")
    assert document.text == text
    assert document.blocks == (Block(BlockKind.PARAGRAPH, 0, len(text), ("Ä",), 3),)


def test_one_process_serves_many_items(parser: IsolatedParser) -> None:
    documents = [parser.parse("echo", b"x", "x.txt") for _ in range(3)]
    assert [d.metadata["served"] for d in documents] == ["1", "2", "3"]


def test_large_items_pass_through_the_pipes(parser: IsolatedParser) -> None:
    assert len(parser.parse("echo", b"x" * 90_000, "x.txt").text) == 90_000


def test_the_process_is_replaced_after_max_items() -> None:
    with IsolatedParser(worker=WORKER, max_items=2) as parser:
        served = [parser.parse("echo", b"x", "x.txt").metadata["served"] for _ in range(3)]
    assert served == ["1", "2", "1"]


def test_a_slow_item_is_stopped_and_the_next_one_parsed() -> None:
    with IsolatedParser(worker=WORKER, seconds=0.5) as parser:
        error = failure(parser, "hang")
        assert error.status is Status.TIMED_OUT
        assert "0.5 s" in str(error)
    with IsolatedParser(worker=WORKER, seconds=30) as parser:
        assert parser.parse("echo", b"after", "x.txt").text == "after"


def test_a_crash_is_that_items_outcome_only(parser: IsolatedParser) -> None:
    error = failure(parser, "die")
    assert error.status is Status.CRASHED
    assert f"signal {int(signal.SIGSEGV)}" in str(error)
    assert parser.parse("echo", b"after", "x.txt").text == "after"


def test_an_item_is_not_blamed_for_a_worn_process(parser: IsolatedParser) -> None:
    parser.parse("echo", b"x", "x.txt")
    assert parser.parse("die_unless_fresh", b"text", "x.txt").text == "text"


def test_running_out_of_memory_is_a_crash(parser: IsolatedParser) -> None:
    error = failure(parser, "exhaust_memory")
    assert error.status is Status.CRASHED
    assert "memory" in str(error)
    assert parser.parse("echo", b"after", "x.txt").text == "after"


def test_the_address_space_limit_holds_for_the_real_worker() -> None:
    large = build_pdf(["x"]) + b"%" + b" " * (200 << 20)
    with IsolatedParser(address_space_mib=200) as parser:
        assert failure_of_pdf(parser, large).status is Status.CRASHED
        # The process is replaced by one with the same limit, which is enough for a small file.
        assert parser.parse("pdf/1", build_pdf(["small"]), "a.pdf").text == "small"


def failure_of_pdf(parser: IsolatedParser, data: bytes) -> ParseError:
    with pytest.raises(ParseError) as caught:
        parser.parse("pdf/1", data, "a.pdf")
    return caught.value


def test_a_process_killed_from_outside_is_replaced(parser: IsolatedParser) -> None:
    pid = int(parser.parse("echo", b"x", "x.txt").title or "")
    os.kill(pid, signal.SIGKILL)
    assert parser.parse("echo", b"after", "x.txt").text == "after"


def test_noise_on_standard_output_reaches_nobody(parser: IsolatedParser, capfd: pytest.CaptureFixture[str]) -> None:
    assert parser.parse("print", b"text", "x.txt").text == "text"
    parser.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("parser_id", "status", "message"),
    [
        ("raise", Status.CRASHED, "ZeroDivisionError: a defect"),
        ("encrypted", Status.ENCRYPTED, "It needs a password."),
        ("overlapping_blocks", Status.CRASHED, "nonsense"),
        ("say_it_is_fine", Status.CRASHED, "nonsense"),
        ("nonsense", Status.CRASHED, "nonsense"),
        ("huge", Status.CRASHED, "too long"),
    ],
)
def test_answers_are_checked(parser: IsolatedParser, parser_id: str, status: Status, message: str) -> None:
    error = failure(parser, parser_id)
    assert error.status is status
    assert message in str(error)
    assert parser.parse("echo", b"after", "x.txt").text == "after"


def test_a_worker_that_does_not_start_blames_no_item() -> None:
    with (
        IsolatedParser(worker="kb_pipeline_tests.no_such_module") as parser,
        pytest.raises(WorkerUnavailable, match="no_such_module"),
    ):
        parser.parse("pdf/1", b"x", "x.pdf")


def test_threads_share_one_process(parser: IsolatedParser) -> None:
    texts: dict[int, str] = {}

    def run(i: int) -> None:
        texts[i] = parser.parse("echo", str(i).encode(), "x.txt").text

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {i: str(i) for i in range(8)}
    # The threads are gone; the process that one of them had started still answers, and is the same one.
    assert parser.parse("echo", b"x", "x.txt").metadata["served"] == "9"


def test_the_process_ends_with_the_one_that_started_it() -> None:
    script = f"""
import os, sys
from kb_pipeline.parsing.isolation import IsolatedParser
parser = IsolatedParser(worker={WORKER!r})
pid = parser.parse("echo", b"x", "x").title
sys.stdout.write(pid + "\\n"); sys.stdout.flush()
import threading
threading.Timer(0.2, lambda: os.kill(os.getpid(), 9)).start()
parser.parse("hang", b"x", "x")
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    # The kernel's kill is not instant: a pidfd waits for the end, or finds no process at all.
    assert ended(pid)


def ended(pid: int) -> bool:
    import select

    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10)[0])
    finally:
        os.close(descriptor)
