"""How long a text's row of token ids is.

What belongs here: the rule that makes a vector a function of its text alone.

Matrix kernels choose their order of summation by the shape they are given, so the last bits of a vector depend on the
padded length. With padding to the longest text of a batch they would depend on the text's neighbours too. Here the
padded length follows from the text's own token count, and a batch holds one padded length only.
"""

from __future__ import annotations

PADDING_MULTIPLE = 16
"""Tokens. Part of every model id, since another multiple gives other last bits."""


def padded_length(n_tokens: int, limit: int, multiple: int = PADDING_MULTIPLE) -> int:
    """Tokens in the row of a text with `n_tokens` tokens, special ones included: rounded up, at most `limit`."""
    rounded = max(multiple, -(-n_tokens // multiple) * multiple)
    return min(rounded, limit)
