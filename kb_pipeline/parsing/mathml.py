"""MathML (presentation), turned into LaTeX.

What belongs here: each element of MathML Core, and the TeX that authors leave beside it, which goes before. What
doesn't: where formulas stand in a page (html) or a document (odf).
"""

from __future__ import annotations

from collections.abc import Callable
from xml.etree.ElementTree import Element

from kb_pipeline.parsing import tex
from kb_pipeline.parsing.trees import children, local, text_of

_OVER = {**tex.ACCENTS, "→": "overrightarrow", "←": "overleftarrow"}
_SPACES_AROUND = frozenset("=<>≤≥≠≈≡→∈⇒⇔")
_NOTHING = frozenset({"", "annotation", "annotation-xml", "mspace", "mprescripts", "none"})


def to_latex(element: Element) -> str:
    """Return the LaTeX of a ``math`` element, on one line, without dollars: its TeX annotation, or its conversion."""
    for annotation in element.iter():
        if local(annotation) == "annotation" and "tex" in (annotation.get("encoding") or "").lower():
            return unwrap(text_of(annotation))
    if alternative := element.get("alttext"):
        return unwrap(alternative)
    return " ".join(_row(element).split())


def unwrap(tex_source: str) -> str:
    """Return TeX without the ``{\\displaystyle …}`` around it, which Wikipedia's formulas have: it says nothing."""
    tex_source = tex_source.strip()
    if tex_source.startswith("{\\displaystyle") and tex_source.endswith("}"):
        return tex_source.removeprefix("{\\displaystyle")[:-1].strip()
    return tex_source


def _row(element: Element) -> str:
    return tex.join(map(_convert, element))


def _convert(element: Element) -> str:
    name = local(element)
    if name in _NOTHING:
        return ""
    converter = _CONVERTERS.get(name)
    return converter(element) if converter else _row(element) if len(element) else tex.characters(text_of(element).strip())


def _arguments(element: Element, number: int) -> list[str]:
    """Return the first ``number`` children, converted; missing ones are ""."""
    converted = [_convert(child) for child in element if local(child)][:number]
    return converted + [""] * (number - len(converted))


def _identifier(element: Element) -> str:
    name = text_of(element).strip().strip("\u2061")
    if name in tex.FUNCTIONS:
        return f"\\{name}"
    converted = tex.characters(name)
    variant = element.get("mathvariant") or ""
    styles = {"bold": "mathbf", "double-struck": "mathbb", "script": "mathcal", "fraktur": "mathfrak"}
    if style := styles.get(variant):
        return f"\\{style}{{{converted}}}"
    return f"\\mathrm{{{converted}}}" if len(name) > 1 and name.isascii() and name.isalpha() else converted


def _operator(element: Element) -> str:
    sign = text_of(element).strip()
    if sign in tex.FUNCTIONS:
        return f"\\{sign}"
    converted = tex.characters(sign)
    return f" {converted} " if sign in _SPACES_AROUND else converted


def _text(element: Element) -> str:
    return tex.text(" ".join(text_of(element).replace("\u00a0", " ").split(" ")))


def _fraction(element: Element) -> str:
    above, below = _arguments(element, 2)
    if (element.get("linethickness") or "").strip() in ("0", "0px", "0pt", "0em"):
        return f"\\genfrac{{}}{{}}{{0pt}}{{}}{{{above}}}{{{below}}}"
    return f"\\frac{{{above}}}{{{below}}}"


def _root(element: Element) -> str:
    base, degree = _arguments(element, 2)
    return f"\\sqrt[{degree}]{{{base}}}"


def _scripts(element: Element) -> str:
    if local(element) == "msubsup":
        base, lower, upper = _arguments(element, 3)
    elif local(element) == "msub":
        (base, lower), upper = _arguments(element, 2), ""
    else:
        (base, upper), lower = _arguments(element, 2), ""
    upper = {"\\prime": "\\prime", "'": "\\prime"}.get(upper, upper)
    return tex.script(tex.script(tex.atom(base.strip()), "_", lower), "^", upper)


def _under_over(element: Element) -> str:
    parts = [child for child in element if local(child)]
    base, *marks = [_convert(part).strip() for part in parts] or [""]
    name = local(element)
    lower = marks.pop(0) if name in ("munder", "munderover") and marks else ""
    upper = marks.pop(0) if name in ("mover", "munderover") and marks else ""
    if base.lstrip("\\") in _WITH_LIMITS or base.startswith(("\\underbrace", "\\overbrace")):
        return tex.script(tex.script(base, "_", lower), "^", upper)
    for raised, converted in ((False, lower), (True, upper)):
        if not converted:
            continue
        sign = text_of(parts[2 if name == "munderover" and raised else 1]).strip()
        if raised and sign in _OVER:
            base = f"\\{_OVER[sign]}{{{base}}}"
        elif not raised and sign in ("_", "¯", "\u0332", "⏟"):
            base = f"\\{'underbrace' if sign == '⏟' else 'underline'}{{{base}}}"
        else:
            base = f"\\{'overset' if raised else 'underset'}{{{converted}}}{{{base}}}"
    return base


_BIG_OPERATORS = """
    sum prod coprod bigcap bigcup bigwedge bigvee bigoplus bigotimes int iint iiint oint
"""
_WITH_LIMITS = tex.FUNCTIONS | frozenset(_BIG_OPERATORS.split())


def _multiscripts(element: Element) -> str:
    base = ""
    after: list[str] = []
    before: list[str] = []
    target = after
    for i, child in enumerate(each for each in element if local(each)):
        if i == 0:
            base = _convert(child)
        elif local(child) == "mprescripts":
            target = before
        else:
            target.append(_convert(child))
    ahead = _pairs("{}", before) if any(before) else ""
    return tex.join([ahead, _pairs(tex.atom(base), after)])


def _pairs(base: str, scripts: list[str]) -> str:
    return tex.script(tex.script(base, "_", "".join(scripts[0::2])), "^", "".join(scripts[1::2]))


def _table(element: Element) -> str:
    rows = []
    for row in element:
        cells = children(row, "mtd")
        if cells:
            rows.append(" & ".join(_row(cell).strip() for cell in cells))
    return tex.lines("matrix", rows)


def _fenced(element: Element) -> str:
    separators = [*(element.get("separators", ",") or "").replace(" ", "")]
    parts = [_convert(child) for child in element if local(child)]
    content: list[str] = []
    for i, part in enumerate(parts):
        if i and separators:
            content.append(tex.characters(separators[min(i - 1, len(separators) - 1)]))
        content.append(part)
    return tex.fence(element.get("open", "("), tex.join(content), element.get("close", ")"))


def _enclosed(element: Element) -> str:
    notation = element.get("notation") or "longdiv"
    command = next((c for n, c in (("box", "boxed"), ("radical", "sqrt"), ("strike", "cancel")) if n in notation), None)
    return f"\\{command}{{{_row(element)}}}" if command else _row(element)


def _first(element: Element) -> str:
    return _arguments(element, 1)[0]


_CONVERTERS: dict[str, Callable[[Element], str]] = {
    "mi": _identifier,
    "mo": _operator,
    "mtext": _text,
    "ms": _text,
    "mfrac": _fraction,
    "msqrt": lambda element: f"\\sqrt{{{_row(element)}}}",
    "mroot": _root,
    "msub": _scripts,
    "msup": _scripts,
    "msubsup": _scripts,
    "munder": _under_over,
    "mover": _under_over,
    "munderover": _under_over,
    "mmultiscripts": _multiscripts,
    "mtable": _table,
    "mfenced": _fenced,
    "menclose": _enclosed,
    "mphantom": lambda element: f"\\phantom{{{_row(element)}}}",
    "semantics": _first,
    "maction": _first,
}
