"""One good example of each format, against a text that a person has looked at (see goldens)."""

from __future__ import annotations

import pytest

from kb_pipeline.parsing.registry import HEAD_BYTES, choose
from kb_pipeline_tests.parsing.goldens import GOLDEN, describe, parse, samples

SAMPLES = samples()


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_good_example(name: str) -> None:
    document = parse(name, SAMPLES[name])
    assert describe(document) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    parser = choose(name, SAMPLES[name][:HEAD_BYTES])
    assert parser is not None
    if name not in ("sample.rss", "sample.atom"):
        assert document.media_type == parser.media_type
    assert "".join(sorted(document.text)).strip(), "a good example holds text"


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_blocks_cover_the_text_but_for_white_space(name: str) -> None:
    document = parse(name, SAMPLES[name])
    position = 0
    for block in document.blocks:
        between = document.text[position : block.start]
        # Front matter and ends of verbatim texts lie outside blocks.
        assert not between.strip() or between.startswith("---\ntitle")
        position = block.end
    assert not document.text[position:].strip()


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_the_same_bytes_give_the_same_document(name: str) -> None:
    assert parse(name, SAMPLES[name]) == parse(name, SAMPLES[name])


def test_no_golden_is_left_over() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {f"{name}.txt" for name in SAMPLES}
