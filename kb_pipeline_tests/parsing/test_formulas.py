"""Formulas of Word and of MathML as LaTeX."""

from __future__ import annotations

import pytest

from kb_pipeline.parsing import html, mathml, omml, tex, trees
from kb_pipeline.parsing.document import BlockKind

M = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'


def r(text: str, properties: str = "") -> str:
    return f"<m:r>{f'<m:rPr>{properties}</m:rPr>' if properties else ''}<m:t>{text}</m:t></m:r>"


def e(name: str, *parts: str) -> str:
    return f"<m:{name}>{''.join(parts)}</m:{name}>"


def val(name: str, value: str) -> str:
    return f'<m:{name} m:val="{value}"/>'


@pytest.mark.parametrize(
    ("content", "latex"),
    [
        (r("x=2"), "x=2"),
        (r("αx"), r"\alpha x"),
        (r("a≤b"), r"a\leq b"),
        (r("sin\u2061θ"), r"\sin\theta"),
        (r("using x"), "using x"),
        (r("if x", "<m:nor/>"), r"\text{if x}"),
        (r("R", val("scr", "double-struck")), r"\mathbb{R}"),
        (r("v", val("sty", "b")), r"\mathbf{v}"),
        (r("𝑥𝐯ℝ"), r"x\mathbf{v}\mathbb{R}"),
        (r("50%"), r"50\%"),
        (e("f", e("num", r("a")), e("den", r("b"))), r"\frac{a}{b}"),
        (e("f", e("fPr", val("type", "lin")), e("num", r("a")), e("den", r("2b"))), "a/{2b}"),
        (e("sSup", e("e", r("x")), e("sup", r("2"))), "x^{2}"),
        (e("sSub", e("e", r("xy")), e("sub", r("i"))), "{xy}_{i}"),
        (e("sSubSup", e("e", r("x")), e("sub", r("i")), e("sup", r("2"))), "x_{i}^{2}"),
        (e("sPre", e("sub", r("2")), e("sup", r("4")), e("e", r("He"))), "{}_{2}^{4}He"),
        (e("rad", e("radPr", val("degHide", "1")), e("deg"), e("e", r("x"))), r"\sqrt{x}"),
        (e("rad", e("deg", r("3")), e("e", r("x"))), r"\sqrt[3]{x}"),
        (e("nary", e("naryPr", val("chr", "∑")), e("sub", r("i=1")), e("sup", r("n")), e("e", r("i"))), r"\sum_{i=1}^{n} i"),
        (e("nary", e("sub", r("0")), e("sup", r("∞")), e("e", r("f"))), r"\int_{0}^{\infty} f"),
        (e("d", e("e", r("x")), e("e", r("y"))), r"\left(x|y\right)"),
        (e("d", e("dPr", val("begChr", "["), val("endChr", "")), e("e", r("x"))), r"\left[x\right."),
        (e("d", e("dPr", val("begChr", "{")), e("e", r("x"))), r"\left\{x\right)"),
        (e("d", e("dPr", val("begChr", "⟨"), val("endChr", "⟩")), e("e", r("x"))), r"\left\langle x\right\rangle"),
        (
            e("d", e("e", e("f", e("fPr", val("type", "noBar")), e("num", r("n")), e("den", r("k"))))),
            r"\binom{n}{k}",
        ),
        (e("func", e("fName", r("cos")), e("e", r("x"))), r"\cos x"),
        (
            e("func", e("fName", e("limLow", e("e", r("lim")), e("lim", r("n→∞")))), e("e", r("a"))),
            r"\lim_{n\to\infty} a",
        ),
        (e("limUpp", e("e", r("=")), e("lim", r("?"))), r"\overset{?}{=}"),
        (e("acc", e("e", r("x"))), r"\hat{x}"),
        (e("acc", e("accPr", val("chr", "⃗")), e("e", r("v"))), r"\vec{v}"),
        (e("bar", e("barPr", val("pos", "top")), e("e", r("x"))), r"\overline{x}"),
        (e("groupChr", e("e", r("x"))), r"\underbrace{x}"),
        (e("borderBox", e("e", r("x"))), r"\boxed{x}"),
        (e("m", e("mr", e("e", r("1")), e("e", r("0"))), e("mr", e("e", r("0")), e("e", r("1")))),
         r"\begin{matrix}1 & 0 \\ 0 & 1\end{matrix}"),
        (e("eqArr", e("e", r("a&amp;=b")), e("e", r("c&amp;=d"))), r"\begin{aligned}a&=b \\ c&=d\end{aligned}"),
        (e("box", e("e", r("x"))), "x"),
        (e("f"), r"\frac{}{}"),
        (e("nary"), r"\int"),
        ("<m:unknown><m:r><m:t>kept</m:t></m:r></m:unknown>", "kept"),
    ],
)  # fmt: skip
def test_word(content: str, latex: str) -> None:
    assert omml.to_latex(trees.parse(f"<m:oMath {M}>{content}</m:oMath>".encode(), "The formula")) == latex


@pytest.mark.parametrize(
    ("content", "latex"),
    [
        ("<mi>x</mi><mo>=</mo><mn>2</mn>", "x = 2"),
        ("<mi>sin</mi><mo>&#x2061;</mo><mi>θ</mi>", r"\sin\theta"),
        ("<mi>rank</mi>", r"\mathrm{rank}"),
        ("<mi mathvariant='bold'>v</mi>", r"\mathbf{v}"),
        ("<mfrac><mi>a</mi><mi>b</mi></mfrac>", r"\frac{a}{b}"),
        ("<msqrt><mi>a</mi><mi>b</mi></msqrt>", r"\sqrt{ab}"),
        ("<mroot><mi>a</mi><mn>3</mn></mroot>", r"\sqrt[3]{a}"),
        ("<msubsup><mi>x</mi><mi>i</mi><mn>2</mn></msubsup>", "x_{i}^{2}"),
        ("<msup><mrow><mi>a</mi><mi>b</mi></mrow><mn>2</mn></msup>", "{ab}^{2}"),
        ("<munderover><mo>∑</mo><mi>i</mi><mi>n</mi></munderover><mi>x</mi>", r"\sum_{i}^{n}x"),
        ("<munder><mi>lim</mi><mi>n</mi></munder><mi>x</mi>", r"\lim_{n}x"),
        ("<mover><mi>x</mi><mo>¯</mo></mover>", r"\bar{x}"),
        ("<munder><mi>x</mi><mi>y</mi></munder>", r"\underset{y}{x}"),
        ("<mmultiscripts><mi>F</mi><mn>1</mn><none/><mprescripts/><mn>2</mn><mn>3</mn></mmultiscripts>", "{}_{2}^{3}F_{1}"),
        ("<mfenced><mi>a</mi><mi>b</mi></mfenced>", r"\left(a,b\right)"),
        ("<mtable><mtr><mtd><mi>a</mi></mtd><mtd><mi>b</mi></mtd></mtr></mtable>", r"\begin{matrix}a & b\end{matrix}"),
        ("<mtext>for all </mtext><mi>x</mi>", r"\text{for all }x"),
        ("<semantics><mi>x</mi><annotation encoding='StarMath 5.0'>y</annotation></semantics>", "x"),
        ("<semantics><mi>x</mi><annotation encoding='application/x-tex'>\\chi</annotation></semantics>", r"\chi"),
        ("<mfrac/>", r"\frac{}{}"),
        ("<munderover/>", ""),
        ("<mmultiscripts/>", ""),
    ],
)
def test_mathml(content: str, latex: str) -> None:
    assert mathml.to_latex(trees.parse(f"<math>{content}</math>".encode(), "The formula")) == latex


def test_every_command_is_parted_from_the_letter_after_it() -> None:
    assert tex.characters("αβx∈ℝ") == r"\alpha\beta x\in\mathbb{R}"


def test_unicode_without_a_command_is_kept() -> None:
    assert tex.characters("数⊛x") == "数⊛x"


def test_a_display_formula_in_a_page_is_a_block() -> None:
    page = "<p>So<math display=block><mi>a</mi></math>ends.</p><p>\\[ b \\]</p><p>$$c$$</p><p>costs $$5 and $$6</p>"
    document = html.parse(page.encode(), "a.html")
    assert document.text == "So\n\n$$a$$\n\nends.\n\n\\[ b \\]\n\n$$c$$\n\ncosts $$5 and $$6"
    kinds = [block.kind for block in document.blocks]
    assert kinds == [
        BlockKind.PARAGRAPH,
        BlockKind.FORMULA,
        BlockKind.PARAGRAPH,
        *[BlockKind.FORMULA] * 2,
        BlockKind.PARAGRAPH,
    ]


def test_a_formula_nested_without_end_is_read() -> None:
    page = b"<p><math>" + b"<mrow>" * 20_000 + b"<mi>x</mi></math></p>"
    assert html.parse(page, "a.html").text == "$x$"
