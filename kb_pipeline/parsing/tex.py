"""TeX from the characters of formulas, for formats that write formulas as trees.

What belongs here: characters, functions and fences, and how pieces are joined. What doesn't: any tree (omml, mathml).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_GREEK = """
    α alpha β beta γ gamma δ delta ε varepsilon ζ zeta η eta θ theta ι iota κ kappa λ lambda μ mu ν nu ξ xi π pi ρ rho
    σ sigma ς varsigma τ tau υ upsilon φ varphi χ chi ψ psi ω omega ϑ vartheta ϕ phi ϖ varpi ϱ varrho ϵ epsilon
    Γ Gamma Δ Delta Θ Theta Λ Lambda Ξ Xi Π Pi Σ Sigma Υ Upsilon Φ Phi Ψ Psi Ω Omega
"""
_OPERATORS = """
    × times ÷ div ± pm ∓ mp · cdot ⋅ cdot ∗ ast ∘ circ ∙ bullet ⊕ oplus ⊗ otimes ⊖ ominus ⊙ odot ∧ wedge ∨ vee ∩ cap ∪ cup
    ∖ setminus ≤ leq ≥ geq ≠ neq ≈ approx ≡ equiv ∼ sim ≃ simeq ≅ cong ∝ propto ≪ ll ≫ gg ≺ prec ≻ succ ⊂ subset ⊃ supset
    ⊆ subseteq ⊇ supseteq ∈ in ∉ notin ∋ ni ⊥ perp ∥ parallel ∣ mid ⊢ vdash ⊨ models ∀ forall ∃ exists ∄ nexists ¬ neg
    ∅ emptyset ∞ infty ∂ partial ∇ nabla ∆ Delta ∑ sum ∏ prod ∐ coprod ∫ int ∬ iint ∭ iiint ∮ oint ⋂ bigcap ⋃ bigcup
    ⋀ bigwedge ⋁ bigvee ⨁ bigoplus ⨂ bigotimes → to ← leftarrow ↔ leftrightarrow ⇒ Rightarrow ⇐ Leftarrow
    ⇔ Leftrightarrow ↦ mapsto ↑ uparrow ↓ downarrow ⟶ longrightarrow ⟹ Longrightarrow ⟺ Longleftrightarrow … ldots
    ⋯ cdots ⋮ vdots ⋱ ddots ℏ hbar ℓ ell ℜ Re ℑ Im ℵ aleph ′ prime √ surd ∠ angle ∴ therefore ∵ because
    ⟨ langle ⟩ rangle 〈 langle 〉 rangle ⌊ lfloor ⌋ rfloor ⌈ lceil ⌉ rceil ‖ | † dagger ‡ ddagger
"""
_PAIRS = (_GREEK + _OPERATORS).split()
_SYMBOLS = {character: f"\\{command}" for character, command in zip(_PAIRS[::2], _PAIRS[1::2], strict=True)}
_SYMBOLS |= {character: f"\\{character}" for character in "{}#%&$_"}
_SYMBOLS |= {"\\": "\\backslash", "~": "\\sim", "^": "\\hat{}", "−": "-", "⁄": "/", "°": "^{\\circ}", "\u00a0": " "}
# Function application, invisible times, separator and plus; zero-width space and joiners: they show nothing.
_SYMBOLS |= dict.fromkeys("\u2061\u2062\u2063\u2064\u200b\u200c\u200d\ufeff", "")
_BLACKBOARD = {"ℂ": "C", "ℍ": "H", "ℕ": "N", "ℙ": "P", "ℚ": "Q", "ℝ": "R", "ℤ": "Z"}
_STYLES = (
    ("MATHEMATICAL DOUBLE-STRUCK ", "mathbb"),
    ("MATHEMATICAL BOLD SCRIPT ", "mathcal"),
    ("MATHEMATICAL SCRIPT ", "mathcal"),
    ("MATHEMATICAL FRAKTUR ", "mathfrak"),
    ("MATHEMATICAL BOLD ", "mathbf"),
    ("MATHEMATICAL SANS-SERIF ", "mathsf"),
    ("MATHEMATICAL MONOSPACE ", "mathtt"),
)
_FUNCTION_NAMES = """
    arccos arcsin arctan arg cos cosh cot coth csc deg det dim exp gcd hom inf ker lg lim liminf limsup ln log max min Pr
    sec sin sinh sup tan tanh
"""
FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
ACCENTS = {
    "\u0302": "hat", "^": "hat", "ˆ": "hat", "\u0303": "tilde", "~": "tilde", "˜": "tilde", "\u0304": "bar",
    "\u0305": "overline", "¯": "bar", "‾": "overline", "_": "underline", "\u0306": "breve", "˘": "breve",
    "\u0307": "dot", "˙": "dot", "\u0308": "ddot", "¨": "ddot", "\u20db": "dddot", "\u030c": "check", "ˇ": "check",
    "\u0301": "acute", "´": "acute", "\u0300": "grave", "`": "grave", "\u20d7": "vec", "→": "vec",
    "\u20d6": "overleftarrow", "\u20e1": "overleftrightarrow", "⏞": "overbrace", "⏟": "underbrace",
}  # fmt: skip
_LONGEST_COMMAND = 40
_COMMAND_AT_END = re.compile(r"\\[A-Za-z]+$")
_WORD = re.compile(r"[A-Za-z]+")


def join(pieces: Iterable[str]) -> str:
    """Return the pieces one after the other, with a space where a command would run into the letter after it."""
    joined: list[str] = []
    for piece in pieces:
        if not piece:
            continue
        # A command is never parted over pieces, so the end of the last one tells.
        if joined and piece[0].isalpha() and _COMMAND_AT_END.search(joined[-1][-_LONGEST_COMMAND:]):
            joined.append(" ")
        joined.append(piece)
    return "".join(joined)


def characters(text: str) -> str:
    """Return the TeX of a run of characters. Those without a command stay as they are."""
    return join(map(_character, text))


def words(text: str) -> str:
    """Return the TeX of a run of characters in which the names of functions are functions."""
    pieces: list[str] = []
    done = 0
    for word in _WORD.finditer(text):
        if word[0] in FUNCTIONS:
            pieces += [characters(text[done : word.start()]), f"\\{word[0]}"]
            done = word.end()
    return join([*pieces, characters(text[done:])])


def text(content: str) -> str:
    """Return words that are no mathematics, to stand inside a formula."""
    escaped = re.sub(r"[{}#%&$_]", lambda match: f"\\{match[0]}", content.replace("\\", ""))
    return f"\\text{{{escaped}}}" if content.strip() else content and "\\ "


def script(base: str, mark: str, exponent: str) -> str:
    """Return ``base`` with a sub- or superscript (``mark``: "_" or "^")."""
    return f"{base}{mark}{{{exponent}}}" if exponent.strip() else base


def atom(base: str) -> str:
    """Return ``base`` so that a script belongs to all of it."""
    single = len(base) < 2 or re.fullmatch(r"\\[A-Za-z]+(?:\{[^{}]*\})?", base)
    return base if single else f"{{{base}}}"


def fence(opening: str, content: str, closing: str) -> str:
    """Return ``content`` between fences that grow with it; "" is a fence that isn't seen."""
    left = characters(opening).strip() or "."
    right = characters(closing).strip() or "."
    return join([f"\\left{left}", content.strip(), f"\\right{right}"])


def lines(environment: str, rows: Iterable[str]) -> str:
    """Return an environment of rows; "" for none."""
    content = " \\\\ ".join(rows)
    return f"\\begin{{{environment}}}{content}\\end{{{environment}}}" if content else ""


def _character(character: str) -> str:
    if (found := _SYMBOLS.get(character)) is not None:
        return found
    if character < "\x7f":
        return character
    if character in _BLACKBOARD:
        return f"\\mathbb{{{_BLACKBOARD[character]}}}"
    name = unicodedata.name(character, "")
    if name.startswith("MATHEMATICAL "):
        plain = unicodedata.normalize("NFKC", character)
        plain = _SYMBOLS.get(plain, plain)
        style = next((style for prefix, style in _STYLES if name.startswith(prefix) and "ITALIC" not in name), None)
        if "BOLD ITALIC" in name:
            style = "boldsymbol"
        return f"\\{style}{{{plain}}}" if style else plain
    return character
