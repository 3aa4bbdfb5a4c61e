from __future__ import annotations

import os

from hypothesis import example, given
from hypothesis import strategies as st

from kb_pipeline.sources.names import escape, unescape

_NAMES = st.text(st.sampled_from("\\udc80fe9xé\udc80\udcff"), max_size=12) | st.binary(max_size=12).map(os.fsdecode)


@given(_NAMES)
@example("\\\udc80")
@example("\\udc80")
@example("\\\\udc80\udc80")
def test_escaping_is_reversible_and_valid_unicode(name: str) -> None:
    escaped = escape(name)
    escaped.encode()
    assert unescape(escaped) == name


@given(_NAMES, _NAMES)
def test_different_names_stay_different(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\\")))
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert escape(name) == name
