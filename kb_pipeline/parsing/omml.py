"""Office Math Markup Language (ECMA-376-1, 22.1), turned into LaTeX.

What belongs here: each element of OMML. What doesn't: where formulas stand in a document (docx, pptx).
"""

from __future__ import annotations

from collections.abc import Callable
from xml.etree.ElementTree import Element

from kb_pipeline.parsing import tex
from kb_pipeline.parsing.trees import attribute, child, children, local, text_of

_SCRIPTS = {
    "double-struck": "mathbb",
    "fraktur": "mathfrak",
    "script": "mathcal",
    "sans-serif": "mathsf",
    "monospace": "mathtt",
}
_LIMITS = frozenset({"∑", "∏", "∐", "⋂", "⋃", "⋀", "⋁", "⨁", "⨂"})


def to_latex(element: Element) -> str:
    """Return the LaTeX of an ``m:oMath`` or of any element in one, on one line, without dollars."""
    return " ".join(_row(element).split())


def _row(element: Element | None) -> str:
    return tex.join(_convert(each) for each in element) if element is not None else ""


def _convert(element: Element) -> str:
    name = local(element)
    if name == "r":
        return _run(element)
    converter = _CONVERTERS.get(name)
    if converter is not None:
        return converter(element)
    # Properties say how, not what; what isn't known here is a wrapper around what is (w:ins, m:box, m:sdt...).
    return "" if name.endswith("Pr") or name in _NOTHING else _row(element)


_NOTHING = frozenset({"", "del", "moveFrom"})


def _value(element: Element, name: str, default: str) -> str:
    """Return a property's value: ``default`` where the property is missing, "" where it is there without a value."""
    properties = next((each for each in element if local(each) == f"{local(element)}Pr"), None)
    found = child(properties, name)
    return default if found is None else attribute(found, "val") or ""


def _is_on(element: Element, name: str) -> bool:
    return _value(element, name, "0") in ("", "1", "on", "true")


def _run(element: Element) -> str:
    characters = "".join("\n" if local(each) == "br" else text_of(each) if local(each) == "t" else "" for each in element)
    if not characters.strip():
        return characters and " "
    properties = child(element, "rPr")
    if child(properties, "nor") is not None:
        return tex.text(characters)
    converted = tex.words(characters)
    if style := _SCRIPTS.get(attribute(child(properties, "scr"), "val") or ""):
        return f"\\{style}{{{converted}}}"
    return f"\\mathbf{{{converted}}}" if attribute(child(properties, "sty"), "val") in ("b", "bi") else converted


def _fraction(element: Element) -> str:
    numerator, denominator = _row(child(element, "num")), _row(child(element, "den"))
    kind = _value(element, "type", "bar")
    if kind == "lin":
        return f"{tex.atom(numerator)}/{tex.atom(denominator)}"
    if kind == "noBar":
        return f"\\genfrac{{}}{{}}{{0pt}}{{}}{{{numerator}}}{{{denominator}}}"
    return f"\\frac{{{numerator}}}{{{denominator}}}"


def _scripts(element: Element) -> str:
    base = tex.atom(_row(child(element, "e")))
    return tex.script(tex.script(base, "_", _row(child(element, "sub"))), "^", _row(child(element, "sup")))


def _prescripts(element: Element) -> str:
    before = tex.script(tex.script("{}", "_", _row(child(element, "sub"))), "^", _row(child(element, "sup")))
    return tex.join([before, _row(child(element, "e"))])


def _root(element: Element) -> str:
    degree = "" if _is_on(element, "degHide") else _row(child(element, "deg"))
    return f"\\sqrt{f'[{degree}]' if degree.strip() else ''}{{{_row(child(element, 'e'))}}}"


def _nary(element: Element) -> str:
    sign = _value(element, "chr", "∫")
    lower, upper = _row(child(element, "sub")), _row(child(element, "sup"))
    place = "\\limits" if _value(element, "limLoc", "") == "undOvr" and sign not in _LIMITS else ""
    scripts = tex.script(tex.script(f"{tex.characters(sign)}{place}", "_", lower), "^", upper)
    return tex.join([scripts, " ", _row(child(element, "e"))])


def _delimited(element: Element) -> str:
    content = tex.characters(_value(element, "sepChr", "|")).join(map(_row, children(element, "e")))
    opening, closing = _value(element, "begChr", "("), _value(element, "endChr", ")")
    if content.startswith("\\genfrac{}{}{0pt}{}") and (opening, closing) == ("(", ")") and len(children(element, "e")) == 1:
        only = child(element, "e", "f")
        if only is not None and len([each for each in child(element, "e") or () if not local(each).endswith("Pr")]) == 1:
            return content.replace("\\genfrac{}{}{0pt}{}", "\\binom", 1)
    return tex.fence(opening, content, closing)


def _function(element: Element) -> str:
    return tex.join([_row(child(element, "fName")).strip(), " ", _row(child(element, "e"))])


def _accent(element: Element) -> str:
    return _marked(tex.ACCENTS.get(_value(element, "chr", "\u0302"), "hat"), element)


def _bar(element: Element) -> str:
    return _marked("overline" if _value(element, "pos", "bot") == "top" else "underline", element)


def _group(element: Element) -> str:
    sign = _value(element, "chr", "⏟")
    above = _value(element, "pos", "bot") == "top"
    if sign in ("⏞", "⏟"):
        return _marked("overbrace" if above else "underbrace", element)
    return f"\\{'overset' if above else 'underset'}{{{tex.characters(sign)}}}{{{_row(child(element, 'e'))}}}"


def _marked(command: str, element: Element) -> str:
    return f"\\{command}{{{_row(child(element, 'e'))}}}"


def _limit(element: Element) -> str:
    base, limit = _row(child(element, "e")), _row(child(element, "lim"))
    below = local(element) == "limLow"
    if base.strip().lstrip("\\") in tex.FUNCTIONS or base.startswith(("\\underbrace", "\\overbrace")):
        return tex.script(base.strip(), "_" if below else "^", limit)
    return f"\\{'underset' if below else 'overset'}{{{limit}}}{{{base}}}"


def _matrix(element: Element) -> str:
    rows = [" & ".join(map(_row, children(row, "e"))) for row in children(element, "mr")]
    return tex.lines("matrix", rows)


def _equations(element: Element) -> str:
    # In the text of an equation array, "&" marks alignment.
    rows = [_row(row).replace("\\&", "&") for row in children(element, "e")]
    return tex.lines("aligned", rows)


_CONVERTERS: dict[str, Callable[[Element], str]] = {
    "f": _fraction,
    "sSub": _scripts,
    "sSup": _scripts,
    "sSubSup": _scripts,
    "sPre": _prescripts,
    "rad": _root,
    "nary": _nary,
    "d": _delimited,
    "func": _function,
    "acc": _accent,
    "bar": _bar,
    "groupChr": _group,
    "borderBox": lambda element: _marked("boxed", element),
    "phant": lambda element: _marked("phantom", element) if not _is_on(element, "show") else _row(child(element, "e")),
    "limLow": _limit,
    "limUpp": _limit,
    "m": _matrix,
    "eqArr": _equations,
}
