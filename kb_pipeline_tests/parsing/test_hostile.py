"""Damaged documents: whatever is cut out of them or put into them, the parser reads on or says why not."""

from __future__ import annotations

import io
import re
import time
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kb_pipeline.parsing.errors import ParseError
from kb_pipeline_tests.parsing.goldens import parse, samples

SAMPLES = samples()
ZIPPED = ["sample.docx", "sample.pptx", "sample.odt", "sample.odp", "sample.xlsx", "sample.epub"]
PLAIN = [
    "sample.html",
    "sample.xml",
    "sample.rss",
    "sample.atom",
    "sample.eml",
    "sample.rtf",
    "sample.msg",
    "sample.rst",
    "sample.tex",
    "sample.ipynb",
]


def members(name: str) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(SAMPLES[name])) as archive:
        return {each: archive.read(each) for each in archive.namelist()}


MEMBERS = {name: members(name) for name in ZIPPED}


def packed(parts: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for each, content in parts.items():
            archive.writestr(each, content)
    return file.getvalue()


def read_or_refuse(name: str, data: bytes) -> None:
    try:
        document = parse(name, data)
    except ParseError:
        return
    position = 0
    for block in document.blocks:
        assert position <= block.start < block.end <= len(document.text)
        position = block.end
    assert all(isinstance(value, str) for value in document.metadata.values())


def some(data: st.DataObject) -> bool:
    chosen: bool = data.draw(st.booleans())
    return chosen


@pytest.mark.parametrize("name", ZIPPED)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_elements_and_values_that_are_gone_or_wrong(name: str, data: st.DataObject) -> None:
    parts = dict(MEMBERS[name])
    member = data.draw(st.sampled_from(sorted(parts)))
    content = parts[member].decode()
    # Well-formed damage: elements that go with all that is in them, values that become others, names that change.
    empty = re.findall(r"<[\w:]+(?: [^<>]*)?/>", content)
    if empty and some(data):
        content = content.replace(data.draw(st.sampled_from(empty)), data.draw(st.sampled_from(["", "<x/>", "text"])))
    values = re.findall(r'="[^"<>]*"', content)
    if values and some(data):
        other = data.draw(st.sampled_from(['="-1"', '="99999999999"', '=""', '="x"', '="²"', '="../.."', '="1e9"']))
        content = content.replace(data.draw(st.sampled_from(values)), other)
    names = re.findall(r"</([\w:]+)>", content)
    if names and some(data):
        content = re.sub(rf"(</?){data.draw(st.sampled_from(names))}(?=[ >/])", r"\1x", content)
    read_or_refuse(name, packed({**parts, member: content.encode()}))


@pytest.mark.parametrize("name", ZIPPED)
@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_members_that_are_gone_or_nonsense(name: str, data: st.DataObject) -> None:
    parts = dict(MEMBERS[name])
    member = data.draw(st.sampled_from(sorted(parts)))
    if some(data):
        del parts[member]
    else:
        parts[member] = data.draw(st.binary(max_size=40) | st.just(b"<a/>"))
    read_or_refuse(name, packed(parts))


@pytest.mark.parametrize("name", [*ZIPPED, *PLAIN])
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_bytes_that_are_gone_or_wrong(name: str, data: st.DataObject) -> None:
    content = SAMPLES[name]
    start = data.draw(st.integers(0, len(content)))
    length = data.draw(st.integers(0, 200))
    other = data.draw(st.binary(max_size=20))
    read_or_refuse(name, content[:start] + other + content[start + length :])


def processor_time(name: str, data: bytes) -> float:
    """Seconds of this process's own, the least of three: what else the machine does hardly shows in it."""
    times = []
    for _ in range(3):
        start = time.process_time()
        parse(name, data)
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.parametrize(
    ("name", "repeated", "number"),
    [
        ("a.rst", lambda n: b"=== ===\nx\n\n" * n, 30_000),
        ("a.rst", lambda n: b"".join(b" " * (i % 1_500) + b".. note::\n\n" for i in range(n)), 1_500),
        ("a.rst", lambda n: b"a\n=\n\n" * n, 30_000),
        ("a.rst", lambda n: b"- a\n\n   b\n\n" * n, 20_000),
        ("a.xml", lambda n: b"<rss><channel>" + b"<item><title>&lt;b&gt;x</title></item>" * n + b"</channel></rss>", 5_000),
        ("a.html", lambda n: b"<p>" + b"<math><mi>&alpha;x</mi></math>" * n, 5_000),
        ("a.html", lambda n: b"<math><mtext>" + b"x" * n + b"</mtext></math>", 1_000_000),
        ("a.html", lambda n: b"<math><mi>" + b"\xce\xb1" * n + b"</mi></math>", 500_000),
        ("a.eml", lambda n: b"Subject: " + b"=?utf-8?q?a?= " * n + b"\n\nx", 20_000),
        ("a.eml", lambda n: b"To: " + b"a@b, " * n + b"\n\nx", 50_000),
    ],
    ids=lambda value: str(value(1)[:30]) if callable(value) else str(value),
)
def test_time_grows_with_the_length(name: str, repeated: Callable[[int], bytes], number: int) -> None:
    """Four times as much takes about four times as long; what compares everything with everything takes sixteen times."""
    quarter = processor_time(name, repeated(number // 4))
    assert processor_time(name, repeated(number)) < 9 * max(quarter, 0.02)
