"""The limit on memory: an item that needs more is too large, whichever code of whichever format is refused it."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable

import pytest

from kb_pipeline.parsing.child import Limits
from kb_pipeline.parsing.pool import ParserPool
from kb_pipeline.statuses import Status
from kb_pipeline_tests.parsing.compound_builder import build_compound
from kb_pipeline_tests.parsing.packages import docx, paragraph, xlsx
from kb_pipeline_tests.parsing.pdf_builder import build_pdf

WORKER = "kb_pipeline_tests.parsing.misbehaving_worker"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows the limit")


def large_xls() -> bytes:
    """A workbook of Excel 97 with 300,000 numbers (MS-XLS: BOF, BOUNDSHEET, NUMBER, EOF)."""

    def record(kind: int, content: bytes = b"") -> bytes:
        return struct.pack("<HH", kind, len(content)) + content

    def begin(kind: int) -> bytes:
        return record(0x809, struct.pack("<HHHHII", 0x600, kind, 0, 1997, 0, 0x600))

    def workbook(sheet_at: int) -> bytes:
        return begin(5) + record(0x85, struct.pack("<IBBBB", sheet_at, 0, 0, 1, 0) + b"A") + record(0xA)

    places = [(row, column) for row in range(30_000) for column in range(10)]
    cells = b"".join(record(0x203, struct.pack("<HHHd", row, column, 0, row * column + 0.5)) for row, column in places)
    return build_compound({"Workbook": workbook(len(workbook(0))) + begin(0x10) + cells + record(0xA)})


def large_xlsx() -> bytes:
    return xlsx({"A": {f"{column}{row}": f"><v>{row}</v>" for row in range(1, 20_001) for column in "ABCDEFGHIJ"}})


MAKERS: dict[str, tuple[Callable[[], bytes], tuple[int, ...]]] = {
    "a.xls": (large_xls, (6, 16, 24, 32, 48)),
    "a.xlsx": (large_xlsx, (2, 8, 16, 24, 32)),
    "a.pdf": (lambda: build_pdf([f"Page {i} " * 200 for i in range(1_500)]), (8, 14, 16, 18, 20)),
    "a.docx": (lambda: docx(paragraph("words and words") * 30_000), (4, 8, 14, 16, 18)),
    "a.html": (lambda: b"<table>" + b"<tr><td>1</td><td><b>x</b></td></tr>" * 30_000, (4, 8, 16, 24)),
    "a.xml": (lambda: b"<rss><channel>" + b"<item><title>x</title></item>" * 30_000 + b"</channel></rss>", (3, 4, 5, 8)),
    "a.csv": (lambda: b"a,b,c\n" * 1_000_000, (5, 8, 12, 16)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_whoever_is_refused_memory_the_item_is_too_large(name: str) -> None:
    make, limits = MAKERS[name]
    data = make()
    for limit in limits:
        with ParserPool(Limits(memory_mib=limit), size=1) as pool:
            outcome = pool.parse(name, data)
        assert outcome.status is Status.TOO_LARGE, f"{limit} MiB: {outcome.status}, {outcome.detail}"
        assert f"the limit of {limit} MiB" in outcome.detail
    with ParserPool(size=1) as pool:
        assert pool.parse(name, data).status is Status.PARSED


@pytest.mark.parametrize(
    ("last_words", "status"),
    [
        ("", Status.TOO_LARGE),
        ("memory allocation of 4096 bytes failed\nstack backtrace:\n" + "   0: a frame\n" * 200, Status.TOO_LARGE),
        ("terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n", Status.TOO_LARGE),
        ("noise\n" * 100_000 + "memory allocation of 4096 bytes failed\n", Status.TOO_LARGE),
        ("free(): invalid pointer\n", Status.CRASHED),
        ("thread '<unnamed>' panicked at src/lib.rs:3:5:\nindex out of bounds\n", Status.CRASHED),
    ],
)
def test_native_code_that_aborts_is_believed(last_words: str, status: Status) -> None:
    with ParserPool(Limits(memory_mib=256), size=1, worker=WORKER) as pool:
        outcome = pool.parse("abort", last_words.encode())
        assert outcome.status is status
        assert ("256 MiB" if status is Status.TOO_LARGE else "signal 6 (SIGABRT)") in outcome.detail
        after = pool.parse("echo", b"after").document
    assert after is not None
    assert after.text == "after"
