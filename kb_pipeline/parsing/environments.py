"""The environments of LaTeX that hold formulas, wherever LaTeX is written: sources, Markdown, notebooks."""

from __future__ import annotations

_DISPLAYED = """
    equation align gather multline eqnarray alignat flalign xalignat xxalignat displaymath math tikzcd CD
    IEEEeqnarray IEEEeqnarrayBox dmath dgroup darray empheq numcases subnumcases
"""
_INNER = """
    array matrix pmatrix bmatrix Bmatrix vmatrix Vmatrix smallmatrix cases dcases rcases split aligned alignedat
    gathered multlined
"""
DISPLAYED = tuple(_DISPLAYED.split())
"""Those that are a formula by themselves, each also with a star."""
INNER = tuple(_INNER.split())
"""Those that are part of one, and are found by themselves where the formula around them can't be told."""
