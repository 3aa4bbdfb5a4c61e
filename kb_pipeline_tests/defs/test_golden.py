"""All definitions against a text that a person has looked at (see ``golden``): what changed shows in the commit."""

from __future__ import annotations

from kb_pipeline_tests.defs.golden import GOLDEN, describe


def test_the_definitions_are_those_that_were_looked_at() -> None:
    assert describe() == GOLDEN.read_text(encoding="utf-8"), "write it anew: python -m kb_pipeline_tests.defs.golden"
