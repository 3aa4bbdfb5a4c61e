"""What each format's parser makes of small samples."""

from __future__ import annotations

import json

import pytest

from kb_pipeline.parsing import code, html, latex, markdown, notebook, pdf, structured, tabular, text
from kb_pipeline.parsing.document import Document
from kb_pipeline_tests.parsing.pdf_builder import build_pdf


def outline(document: Document) -> list[tuple[str, str]]:
    """The blocks as (kind, text)."""
    return [(block.kind.value, document.text[block.start : block.end]) for block in document.blocks]


def paths(document: Document) -> list[tuple[str, ...]]:
    return [block.heading_path for block in document.blocks]


class TestText:
    def test_the_text_is_verbatim(self) -> None:
        document = text.parse("one\r\ntwo\r\n\r\n  three \u2028 four\n".encode(), "a.txt")
        assert document.text == "one\r\ntwo\r\n\r\n  three \u2028 four\n"
        assert outline(document) == [("paragraph", "one\r\ntwo"), ("paragraph", "three \u2028 four")]

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "shift_jis"])
    def test_encodings(self, encoding: str) -> None:
        sample = "Die Brüder übten größere Äußerungen über Straßen, schön und früh. " * 5
        sample = (
            "これは日本語の文章です。東京は日本の首都であり、人口が多い都市です。" * 5 if encoding == "shift_jis" else sample
        )
        assert text.parse(sample.encode(encoding), "a.txt").text == sample

    def test_a_damaged_byte_does_not_change_the_encoding(self) -> None:
        assert text.parse("größere Äußerungen übers Übel, schön ".encode() * 2 + b"\xff end", "a.txt").text.endswith(
            "schön \ufffd end"
        )


class TestMarkdown:
    def test_blocks_and_heading_paths(self) -> None:
        source = (
            "# Top\nintro\n\nSub\n---\n\n- a\n- b\n\n  more\n\n```py\n# no heading\n\nx\n```\n\n"
            "| a | b |\n|---|---|\n| 1 | 2 |\n\n> quoted\n\n$$\nx\n$$\n\n\\[ y \\]\n\n### Deep {#id} ##\nend\n"
        )
        document = markdown.parse(source.encode(), "a.md")
        assert document.text == source
        assert document.title == "Top"
        assert outline(document) == [
            ("heading", "# Top"),
            ("paragraph", "intro"),
            ("heading", "Sub\n---"),
            ("list", "- a\n- b"),
            ("paragraph", "  more"),
            ("code", "```py\n# no heading\n\nx\n```"),
            ("table", "| a | b |\n|---|---|\n| 1 | 2 |"),
            ("quote", "> quoted"),
            ("formula", "$$\nx\n$$"),
            ("formula", "\\[ y \\]"),
            ("heading", "### Deep {#id} ##"),
            ("paragraph", "end"),
        ]
        assert paths(document)[0] == ("Top",)
        assert paths(document)[3] == ("Top", "Sub")
        assert paths(document)[-1] == ("Top", "Sub", "Deep")

    def test_front_matter(self) -> None:
        source = "---\ntitle: The title\ntags: [a, b]\ndeep: {x: 1}\n---\n# Heading\n"
        document = markdown.parse(source.encode(), "a.md")
        assert document.text == source
        assert document.title == "The title"
        assert document.metadata["tags"] == "a, b"
        assert "deep" not in document.metadata
        assert outline(document) == [("heading", "# Heading")]

    def test_rules_are_no_front_matter(self) -> None:
        document = markdown.parse(b"---\nsome words\n---\n", "a.md")
        assert ("heading", "some words\n---") in outline(document)

    def test_windows_line_ends(self) -> None:
        document = markdown.parse(b"# A\r\n\r\ntext\r\n", "a.md")
        assert outline(document) == [("heading", "# A"), ("paragraph", "text")]

    def test_dollars_are_no_formula_blocks(self) -> None:
        assert outline(markdown.parse(b"$$5 and $$6 are prices\n", "a.md"))[0][0] == "paragraph"

    def test_a_long_list_of_openings_takes_no_long_time(self) -> None:
        source = "$$\n\n\\[\n\n" * 20_000
        assert markdown.parse(source.encode(), "a.md").text == source


class TestHtml:
    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("<h1>One <b>two</b></h1><p>text\n more</p>", "# One two\n\ntext more"),
            ("<ul><li>a<li>b<ul><li>c</ul></ul>", "- a\n- b\n  - c"),
            ("<ol start=3><li>a<li>b</ol>", "3. a\n4. b"),
            ("<pre><code class='language-py'>a\n  b`</code></pre>", "```py\na\n  b`\n```"),
            ("<p>call <code>f(x)</code></p>", "call `f(x)`"),
            (
                "<table><tr><th>a<th>b</tr><tr><td>1<td>2</tr></table>",
                "| a | b |\n| --- | --- |\n| 1 | 2 |",
            ),
            ("<table><tr><td><h2>x</h2><p>y</table>", "## x\n\ny"),
            ("<p>a \\( f_1 * g_2 &lt; 3 \\) and $x_1$</p>", "a \\( f_1 * g_2 < 3 \\) and $x_1$"),
            (
                "<p>m <math><semantics><mi>x</mi><annotation encoding='application/x-tex'>{\\displaystyle x^2}"
                "</annotation></semantics></math>.</p>",
                "m $x^2$.",
            ),
            ("<math display=block alttext='a+b'><mi>a</mi></math>", "$$a+b$$"),
            ("<math><mi>a</mi><mo>+</mo><mi>b</mi></math>", "$a+b$"),
            ("<p><script type='math/tex'>y_1</script>", "$y_1$"),
            ("<nav>menu</nav><script>x</script><style>y</style><div hidden>z</div>rest", "rest"),
            ("<blockquote><p>a<br>b</blockquote>", "> a\n> b"),
            ("a<br>b<img alt='a picture'>", "a\nba picture"),
        ],
    )
    def test_conversion(self, source: str, expected: str) -> None:
        assert html.parse(source.encode(), "a.html").text == expected

    def test_title_blocks_and_paths(self) -> None:
        page = "<title> The\n title </title><h1>A</h1><p>x</p><h2>B ¶</h2><ul><li>i<li>j</ul><h1>C</h1><pre>k</pre>"
        document = html.parse(page.encode(), "a.html")
        assert document.title == "The title"
        assert [(kind, path) for (kind, _), path in zip(outline(document), paths(document), strict=True)] == [
            ("heading", ("A",)),
            ("paragraph", ("A",)),
            ("heading", ("A", "B")),
            ("list", ("A", "B")),
            ("heading", ("C",)),
            ("code", ("C",)),
        ]

    def test_the_declared_encoding_is_used(self) -> None:
        page = "<meta charset=windows-1251><p>Привет, мир</p>".encode("cp1251")
        assert html.parse(page, "a.html").text == "Привет, мир"


class TestLatex:
    def test_blocks_and_paths(self) -> None:
        source = (
            "\\title{On {\\bf x}}\n\\section{One}\ntext $a$\n\n\\begin{align*}\na\n\\end{align*}\nmore\n"
            "\\subsection*{Two \\{x\\}}\n\\begin{verbatim}\n\\section{no}\n\\end{verbatim}\n\\[ b \\]\n\\item c\n"
        )
        document = latex.parse(source.encode(), "a.tex")
        assert document.text == source
        assert document.title == "On {\\bf x}"
        assert outline(document) == [
            ("paragraph", "\\title{On {\\bf x}}"),
            ("heading", "\\section{One}"),
            ("paragraph", "text $a$"),
            ("formula", "\\begin{align*}\na\n\\end{align*}"),
            ("paragraph", "more"),
            ("heading", "\\subsection*{Two \\{x\\}}"),
            ("code", "\\begin{verbatim}\n\\section{no}\n\\end{verbatim}"),
            ("formula", "\\[ b \\]"),
            ("list", "\\item c"),
        ]
        assert paths(document)[-1] == ("One", "Two \\{x\\}")

    def test_an_environment_without_end_is_text(self) -> None:
        assert outline(latex.parse(b"\\begin{align} a", "a.tex")) == [("paragraph", "\\begin{align} a")]


class TestCode:
    def test_groups_begin_at_lines_without_indent(self) -> None:
        source = "import a\nimport b\n\ndef f():\n    x\n\n    y\n\n\nz = [\n\n]\n"
        document = code.parse(source.encode(), "pkg/mod.py")
        assert document.text == source
        assert document.title == "mod.py"
        assert document.metadata["programming_language"] == "python"
        assert outline(document) == [
            ("code", "import a\nimport b"),
            ("code", "def f():\n    x\n\n    y"),
            ("code", "z = [\n\n]"),
        ]


class TestNotebook:
    def test_cells_and_outputs(self) -> None:
        cells = [
            {"cell_type": "markdown", "source": ["# Title\n", "text"]},
            {
                "cell_type": "code",
                "source": "print('```')",
                "outputs": [
                    {"output_type": "stream", "text": ["\x1b[31mred\x1b[0m\n"]},
                    {"output_type": "execute_result", "data": {"text/plain": "x" * 3_000, "image/png": "AAAA"}},
                    {"output_type": "error", "ename": "ValueError", "evalue": "bad", "traceback": []},
                ],
            },
            {"cell_type": "code", "source": "", "outputs": []},
        ]
        source = {"cells": cells, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4}
        document = notebook.parse(json.dumps(source).encode(), "a.ipynb")
        assert document.title == "Title"
        assert outline(document) == [
            ("heading", "# Title"),
            ("paragraph", "text"),
            ("code", "````python\nprint('```')\n````"),
            ("code", "```\nred\n```"),
            ("code", f"```\n{'x' * 2_000}\n```"),
            ("code", "```\nValueError: bad\n```"),
        ]
        assert paths(document)[-1] == ("Title",)

    def test_version_3(self) -> None:
        source = {"worksheets": [{"cells": [{"cell_type": "code", "input": "1", "outputs": []}]}], "nbformat": 3}
        assert notebook.parse(json.dumps(source).encode(), "a.ipynb").text == "```\n1\n```"


class TestRows:
    def test_tables_are_verbatim(self) -> None:
        assert outline(tabular.parse_csv(b"a,b\r\n1,2\r\n", "a.csv")) == [("table", "a,b\r\n1,2")]
        assert tabular.parse_tsv(b"a\tb\n", "a.tsv").text == "a\tb\n"

    def test_json_is_verbatim(self) -> None:
        assert outline(structured.parse_json(b'{"a":\n 1}\n', "a.json")) == [("code", '{"a":\n 1}')]
        assert outline(structured.parse_json_lines(b"1\n\n2\n", "a.jsonl")) == [("table", "1\n\n2")]


class TestPdf:
    def test_pages_outline_and_title(self) -> None:
        data = build_pdf(["One", "", "Two\nlines", "Three"], title="The title", outline={"First": 0, "Second": 3})
        document = pdf.parse(data, "a.pdf")
        assert document.text == "One\n\n\n\nTwo\nlines\n\nThree"
        assert document.title == "The title"
        assert document.metadata["pages"] == "4"
        assert [block.page for block in document.blocks] == [1, 3, 4]
        assert paths(document) == [("First",), ("First",), ("Second",)]

    def test_words_parted_at_line_ends_are_joined(self) -> None:
        data = build_pdf(["confirm-\ning well-\nknown, well and known"])
        assert pdf.parse(data, "a.pdf").text.split() == ["confirming", "well-known,", "well", "and", "known"]
