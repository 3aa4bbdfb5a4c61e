"""Formulas counted in files as they lie there, without our parsers: what a parser loses is seen only so.

What belongs here: simple scanners, one per way of writing formulas, that share nothing with the package. What doesn't: what
becomes of formulas in chunks, which ``kb_pipeline.chunking.ledger`` counts.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable

_FENCE = re.compile(r"^ {0,3}(```+|~~~+).*?^ {0,3}\1", re.M | re.S)
_CODE = re.compile(r"(`+)[^`].*?\1")
_COMMENT = re.compile(r"(?<!\\)%.*")
_VERBATIM = re.compile(r"\\begin\{(verbatim\*?|lstlisting|minted)\}.*?\\end\{\1\}", re.S)
_ENVIRONMENT = re.compile(
    r"\\begin\{(equation|align|gather|multline|eqnarray|displaymath|math)(\*?)\}.*?\\end\{\1\2\}", re.S
)
_DOUBLE = re.compile(r"\$\$.+?\$\$|\\\[.+?\\\]", re.S)
# Within one paragraph, and not a price: no blank inside the dollars, and no digit behind them.
_SINGLE = re.compile(r"(?<![\\$])\$(?=[^\s$])(?:[^$\n]|\n(?!\s*\n))*?(?<=[^\s\\])\$(?![\d$])|\\\(.+?\\\)")


def at_source(media_type: str, data: bytes) -> int | None:
    """The formulas in a file, or None for a format that isn't counted."""
    count = _COUNTS.get(media_type)
    return count(data) if count else None


def _dollars(text: str) -> int:
    text, environments = _ENVIRONMENT.subn(" ", text)
    text, double = _DOUBLE.subn(" ", text)
    return environments + double + len(_SINGLE.findall(text))


def _markdown(data: bytes) -> int:
    return _dollars(_CODE.sub(" ", _FENCE.sub(" ", data.decode("utf-8", "replace"))))


def _latex(data: bytes) -> int:
    return _dollars(_VERBATIM.sub(" ", _COMMENT.sub("", data.decode("utf-8", "replace"))))


def _notebook(data: bytes) -> int:
    cells = [cell["source"] for cell in json.loads(data).get("cells", []) if cell["cell_type"] == "markdown"]
    return sum(_markdown("".join(cell).encode()) for cell in cells)


def _html(data: bytes) -> int:
    return len(re.findall(rb"<math[\s>]", data, re.I))


def _word(data: bytes) -> int:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        # Not <m:oMathPara>, which holds one or more of them.
        return len(re.findall(rb"<m:oMath[\s>]", archive.read("word/document.xml")))


_COUNTS: dict[str, Callable[[bytes], int]] = {
    "text/markdown": _markdown,
    "text/x-tex": _latex,
    "application/x-ipynb+json": _notebook,
    "text/html": _html,
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": _word,
}
