"""The padded length is a function of the text's own length."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kb_pipeline.embedding.padding import PADDING_MULTIPLE, padded_length


@given(st.integers(1, 600), st.integers(16, 600))
def test_holds_the_text_and_wastes_less_than_a_multiple(n_tokens: int, limit: int) -> None:
    n_tokens = min(n_tokens, limit)
    length = padded_length(n_tokens, limit)
    assert n_tokens <= length <= limit
    assert length == limit or (length % PADDING_MULTIPLE == 0 and length < n_tokens + PADDING_MULTIPLE)
