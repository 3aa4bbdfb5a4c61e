"""Definitions in source code: found in every language, in a process that may be killed, within bounds."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kb_pipeline.parsing import code, definitions, grammars
from kb_pipeline.parsing.definitions import Definition
from kb_pipeline.parsing.document import Document
from kb_pipeline.parsing.pool import ParserPool
from kb_pipeline.parsing.registry import PARSERS_VERSION

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
SECONDS = 4
"""What a hostile source may take: the bound is half of it, but the machine has others to serve."""

SAMPLES = {
    "python": ("@deco\nclass A:\n    def f(self):\n        pass\n", ["A", "f"]),
    "c": ("struct P { int x; };\ntypedef int Q;\nchar *f(int x) {\n  return 0;\n}\n", ["P", "Q", "f"]),
    "cpp": ("namespace n {\ntemplate <class T>\nclass A {\n  int f() {}\n};\nint A::g() {}\n}\n", ["n", "A", "f", "A::g"]),
    "javascript": ("export class A {\n  m() { return 1 }\n}\nfunction f() {}\n", ["A", "m", "f"]),
    "typescript": ("interface I { a: number }\nenum E { A }\nabstract class B { m(): void {} }\n", ["I", "E", "B", "m"]),
    "tsx": ("function App(): JSX.Element { return <div>hi</div> }\n", ["App"]),
    "java": ("class A {\n  A() {}\n  @Override\n  int f() { return 1; }\n}\nrecord R(int x) {}\n", ["A", "A", "f", "R"]),
    "csharp": ("namespace N {\n class A {\n  int P { get; set; }\n  void F() {}\n }\n}\n", ["N", "A", "P", "F"]),
    "go": ("package a\n\ntype T struct { x int }\n\nfunc (t *T) M() int {\n\treturn 1\n}\n", ["T", "M"]),
    "rust": ("struct S { x: i32 }\nimpl S {\n  #[test]\n  fn f(&self) {}\n}\nmod m { fn h() {} }\n", [*"SSfmh"]),
    "ruby": ("module M\n  class A\n    def f\n    end\n    def self.g; end\n  end\nend\n", ["M", "A", "f", "g"]),
    "php": ("<?php\nclass A {\n  function f() {}\n}\nfunction g() {}\n", ["A", "f", "g"]),
    "shell": ("f() {\n  echo 1\n}\n", ["f"]),
    "kotlin": ("class A {\n  fun f(): Int = 1\n}\nobject O { }\n", ["A", "f", "O"]),
    "scala": ("object O {\n  def f(x: Int): Int = {\n    x\n  }\n}\ntrait T\n", ["O", "f", "T"]),
    "swift": ("class A {\n  init() {}\n  func f() -> Int { 1 }\n}\nprotocol P {}\n", ["A", "init", "f", "P"]),
    "lua": ("function f(x)\n  return x\nend\nfunction M.h() end\n", ["f", "M.h"]),
    "haskell": (
        "data T = A | B\n\nclass Foo a where\n  bar :: a -> Int\n\ninstance Foo T where\n  bar B = 0\n\n"
        "f :: Int -> Int\nf 0 = 1\nf x = 2\n",
        ["T", "Foo", "bar", "Foo T", "bar", "f"],
    ),
    "julia": ("module M\nstruct P{T}\n  x::T\nend\nfunction Base.show(x::P)\nend\nend\n", ["M", "P", "Base.show"]),
    "ocaml": ("module M = struct\n  let f x = x + 1\nend\ntype t = A | B\nlet () = f ()\n", ["M", "f", "t", "value"]),
    "ocaml_interface": ("module M : sig\n  val g : int -> int\nend\n", ["M", "g"]),
    "sql": ("CREATE TABLE a.b (id int);\nCREATE OR REPLACE VIEW v AS SELECT * FROM b;\nSELECT 1;\n", ["a.b", "v"]),
}  # fmt: skip
EXTENSIONS = {
    **{"python": "py", "c": "c", "cpp": "cpp", "javascript": "js", "typescript": "ts", "tsx": "tsx", "java": "java"},
    **{
        "csharp": "cs",
        "go": "go",
        "rust": "rs",
        "ruby": "rb",
        "php": "php",
        "shell": "sh",
        "kotlin": "kt",
        "scala": "scala",
    },
    **{
        "swift": "swift",
        "lua": "lua",
        "haskell": "hs",
        "julia": "jl",
        "ocaml": "ml",
        "ocaml_interface": "mli",
        "sql": "sql",
    },
}

PINS = {
    "tree-sitter": "0.26.1",
    "tree-sitter-bash": "0.25.1",
    "tree-sitter-c": "0.24.2",
    "tree-sitter-c-sharp": "0.23.5",
    "tree-sitter-cpp": "0.23.4",
    "tree-sitter-go": "0.25.0",
    "tree-sitter-haskell": "0.24.1",
    "tree-sitter-java": "0.23.5",
    "tree-sitter-javascript": "0.25.0",
    "tree-sitter-julia": "0.23.1",
    "tree-sitter-kotlin": "1.1.0",
    "tree-sitter-lua": "0.5.0",
    "tree-sitter-ocaml": "0.26.0",
    "tree-sitter-php": "0.25.1",
    "tree-sitter-python": "0.25.0",
    "tree-sitter-ruby": "0.23.1",
    "tree-sitter-rust": "0.24.2",
    "tree-sitter-scala": "0.26.3",
    "tree-sitter-sql": "0.3.13",
    "tree-sitter-swift": "0.7.4",
    "tree-sitter-typescript": "0.23.2",
}


def blocks(document: Document) -> list[tuple[tuple[str, ...], str]]:
    return [(block.heading_path, document.text[block.start : block.end]) for block in document.blocks]


def flat(found: list[Definition]) -> Iterator[Definition]:
    for each in found:
        yield each
        yield from flat(each.inside)


def test_every_grammar_has_a_sample_and_a_file_name() -> None:
    assert set(SAMPLES) == set(EXTENSIONS) == set(grammars.GRAMMARS)
    spoken = {code.language(f"a.{extension}") for extension in EXTENSIONS.values()}
    assert spoken <= set(grammars.GRAMMARS)
    assert len(spoken) == 20


@pytest.mark.parametrize("grammar", SAMPLES)
def test_definitions_are_found_with_their_names(grammar: str) -> None:
    source, names = SAMPLES[grammar]
    assert [each.path[-1] for each in flat(definitions.find(source, grammar))] == names


def test_the_parser_process_has_every_grammar() -> None:
    with ParserPool(size=1) as pool:
        for grammar, (source, names) in SAMPLES.items():
            document = pool.parse(f"a.{EXTENSIONS[grammar]}", source.encode()).document
            assert document is not None
            assert {path[-1] for path, _ in blocks(document) if path} == set(names), grammar
        assert len(pool.pids()) == 1


def test_other_formats_load_no_grammar() -> None:
    probe = (
        "import sys; from kb_pipeline.parsing.parse import parse_item; parse_item('a.md', b'# x'); "
        "parse_item('a.yaml', b'a: 1'); print([name for name in sys.modules if name.startswith('tree_sitter')])"
    )
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_blocks_tell_what_they_are_part_of() -> None:
    source = (
        "import a\n\nclass A:\n    x = 1\n\n    # About f.\n    @deco\n    def f(self):\n        pass\n\n    y = 2\n"
        "    def g(self): pass\n\nz = 3\n\nw = 4\n"
    )
    assert blocks(code.parse(source.encode(), "a.py")) == [
        ((), "import a"),
        (("A",), "class A:\n    x = 1"),
        (("A", "f"), "    # About f.\n    @deco\n    def f(self):\n        pass"),
        (("A",), "    y = 2"),
        (("A", "g"), "    def g(self): pass"),
        ((), "z = 3"),
        ((), "w = 4"),
    ]


def test_what_stands_on_its_line_belongs_to_a_definition() -> None:
    source = "export default class A {\n  m() {}  // of m\n} // of A\nx = 1; function g() { return 2 }\n"
    assert blocks(code.parse(source.encode(), "a.js")) == [
        (("A",), "export default class A {"),
        (("A", "m"), "  m() {}  // of m"),
        (("A",), "} // of A"),
        ((), "x = 1;"),
        (("g",), "function g() { return 2 }"),
    ]


def test_without_a_name_it_goes_by_what_it_is() -> None:
    source = "namespace {\nint f() { return 1; }\n}\nenum { A, B };\n"
    assert [path for path, _ in blocks(code.parse(source.encode(), "a.cpp"))] == [
        ("namespace",), ("namespace", "f"), ("namespace",), ("enum",),
    ]  # fmt: skip


HOSTILE = {
    "open": "(",
    "mixed": "{[(",
    "nested": "class A:\n",
    "definitions": "def f(): pass\n",
    "minus": "-",
    "not": "not ",
    "braces": "{}",
    "scopes": "a::",
    "quotes": "'\"`",
    "zeros": "\0",
    "loops": "do ",
    "ternary": "a?b:",
}


@pytest.mark.parametrize("grammar", ["python", "javascript", "cpp", "csharp", "kotlin", "haskell", "scala", "sql"])
@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_source_takes_no_long_time(grammar: str, piece: str) -> None:
    source = piece * (grammars.MAX_BYTES // len(piece))
    grammars.load(grammar)
    began = time.process_time()
    definitions.find(source, grammar)
    assert time.process_time() - began < SECONDS


def test_a_source_beyond_the_bounds_is_parted_at_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    source = SAMPLES["python"][0]
    for much in ("# " + "x" * grammars.MAX_BYTES, "(" * (grammars.MAX_NESTING + 1), "#" * 2 * grammars.MAX_RUN):
        found = blocks(code.parse(f"{source}\n{much}".encode(), "a.py"))
        assert found == [((), source.rstrip()), ((), much)]
    assert definitions.find(source * 50, "python")
    with monkeypatch.context() as patch:
        patch.setattr(grammars, "FREE_STEPS", 0)
        patch.setattr(grammars, "STEPS_PER_BYTE", 0.001)
        assert definitions.find(source * 50, "python") == []
    with monkeypatch.context() as patch:
        patch.setattr(grammars, "MAX_SECONDS", 0)
        assert definitions.find(source * 50, "python") == []


def test_a_hostile_source_costs_neither_its_item_nor_its_process() -> None:
    with ParserPool(size=1) as pool:
        pool.parse("a.py", b"x = 1")
        (pid,) = pool.pids()
        for name, piece in (("a.kt", b"a,"), ("a.swift", b"#"), ("a.py", b"("), ("a.py", b"-"), ("a.js", b"do ")):
            outcome = pool.parse(name, piece * (grammars.MAX_BYTES // len(piece)))
            assert outcome.document is not None, outcome.detail
        assert pool.pids() == [pid]


def test_long_names_nested_deep_dont_multiply() -> None:
    long = "n" * 150
    source = "".join(f"{' ' * i}class {long}{i}:\n" for i in range(19)) + "".join(
        f"{' ' * 19}def f{i}(): pass\n" for i in range(6_000)
    )
    assert definitions.find(source, "python") == []


def test_nesting_has_a_limit() -> None:
    source = "".join(f"{' ' * i}class A{i}:\n" for i in range(90)) + " " * 90 + "pass\n"
    depths = [len(each.path) for each in flat(definitions.find(source, "python"))]
    assert max(depths) == definitions.MAX_DEPTH


PIECES = [part for source, _ in SAMPLES.values() for part in (source, source[: len(source) // 2])]


@given(
    parts=st.lists(st.sampled_from(PIECES) | st.text(max_size=20), max_size=8),
    grammar=st.sampled_from(sorted(EXTENSIONS)),
)
@settings(deadline=None, max_examples=200)
def test_blocks_hold_all_that_isnt_blank(parts: list[str], grammar: str) -> None:
    source = "".join(parts).replace("\0", "").encode("utf-8", "replace")
    document = code.parse(source, f"a.{EXTENSIONS[grammar]}")
    assert document == code.parse(source, f"a.{EXTENSIONS[grammar]}")
    done = 0
    for block in document.blocks:
        assert done <= block.start < block.end
        assert not document.text[done : block.start].strip()
        assert document.text[block.start : block.end].strip()
        done = block.end
    assert not document.text[done:].strip()


def test_grammars_and_the_version_of_the_parsers_are_raised_together() -> None:
    """Another grammar may draw another tree: documents made with the old one are stale, which PARSERS_VERSION says."""
    pins = dict(line.split("==") for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if "==" in line)
    packages = {"tree-sitter", *(grammar.package for grammar in grammars.GRAMMARS.values())}
    assert (PARSERS_VERSION, {name: pins[name] for name in sorted(packages)}) == ("3", PINS)
