"""Grammars of programming languages: which package parses one, and which nodes of its tree are definitions.

What belongs here: one entry per language, loading on first use, and a tree within bounds. What doesn't: what is made of
the tree (definitions).

Each grammar is a package of its own, MIT licensed, without anything fetched at run time. Constraints pin their versions,
and a pin is raised together with PARSERS_VERSION (a test holds them together), because another version may draw another
tree. Their versions are no part of what makes a result stale by themselves: that would parse every document of every
format anew in each environment whose pins differ.
"""

from __future__ import annotations

import importlib
import re
import time
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Language, Tree

MAX_BYTES = 256 * 1024
"""A longer source isn't parsed: it is data or generated, and single steps of recovery from errors, which nothing interrupts,
take a time that grows with the square of the length. For hostile text of this one it is seconds."""
MAX_NESTING = 500
"""A source with more open brackets than this isn't parsed: recovery from them takes minutes."""
STEPS_PER_BYTE = 0.02
"""Bound on the work of a parse: calls of its progress callback, one per hundred operations, per byte. Sound sources need
0.005 to 0.02. First of all a count, because the same text should always give the same blocks."""
FREE_STEPS = 500
MAX_SECONDS = 1.0
"""Bound on the processor time of a parse. Sound sources of MAX_BYTES take a tenth of a second. Some grammars make a step
as dear as a hundred others and keep up to 300 MB a second of it for good: without this bound such a text would cost its
item. What they keep, the limit of memory ends with the parser process, and no other item is blamed for it."""
MAX_RUN = 1_000
"""A source with a longer run of one punctuation mark isn't parsed: scanners of raw strings take gigabytes for it."""
_PIECE = 65_536
_RUN = re.compile(rb"([^\w\s])\1{%d}" % MAX_RUN)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"()[]{}"))
_BRACKETS = dict.fromkeys(b"([{", 1) | dict.fromkeys(b")]}", -1)


@dataclass(frozen=True, slots=True)
class Grammar:
    """A grammar's package, the function in it that returns the language, and the types of nodes that define things.

    ``clauses``: whether definitions of the same name side by side are parts of one, as in Haskell.
    """

    package: str
    definitions: str
    function: str = "language"
    clauses: bool = False


_C = "function_definition struct_specifier union_specifier enum_specifier type_definition"
_JAVASCRIPT = "class_declaration function_declaration generator_function_declaration method_definition"
_TYPESCRIPT = f"{_JAVASCRIPT} abstract_class_declaration interface_declaration enum_declaration internal_module"
_PHP = "class_declaration interface_declaration trait_declaration enum_declaration method_declaration function_definition"
_OCAML = "module_definition module_type_definition type_definition value_definition value_specification class_definition"

GRAMMARS = {
    "python": Grammar("tree-sitter-python", "class_definition function_definition"),
    "c": Grammar("tree-sitter-c", _C),
    "cpp": Grammar("tree-sitter-cpp", f"{_C} class_specifier namespace_definition"),
    "javascript": Grammar("tree-sitter-javascript", _JAVASCRIPT),
    "typescript": Grammar("tree-sitter-typescript", _TYPESCRIPT, "language_typescript"),
    "tsx": Grammar("tree-sitter-typescript", _TYPESCRIPT, "language_tsx"),
    "java": Grammar(
        "tree-sitter-java",
        "class_declaration interface_declaration enum_declaration record_declaration annotation_type_declaration "
        "method_declaration constructor_declaration",
    ),
    "csharp": Grammar(
        "tree-sitter-c-sharp",
        "namespace_declaration class_declaration struct_declaration interface_declaration enum_declaration "
        "record_declaration method_declaration constructor_declaration property_declaration",
    ),
    "go": Grammar("tree-sitter-go", "function_declaration method_declaration type_declaration"),
    "rust": Grammar(
        "tree-sitter-rust",
        "function_item struct_item enum_item union_item trait_item impl_item mod_item macro_definition",
    ),
    "ruby": Grammar("tree-sitter-ruby", "module class method singleton_method"),
    "php": Grammar("tree-sitter-php", _PHP, "language_php"),
    "shell": Grammar("tree-sitter-bash", "function_definition"),
    "kotlin": Grammar("tree-sitter-kotlin", "class_declaration object_declaration function_declaration"),
    "scala": Grammar(
        "tree-sitter-scala", "class_definition object_definition trait_definition enum_definition function_definition"
    ),
    "swift": Grammar("tree-sitter-swift", "class_declaration protocol_declaration function_declaration init_declaration"),
    "lua": Grammar("tree-sitter-lua", "function_declaration"),
    "haskell": Grammar(
        "tree-sitter-haskell", "data_type newtype class instance signature function bind type_synonym", clauses=True
    ),
    "julia": Grammar(
        "tree-sitter-julia",
        "module_definition struct_definition abstract_definition function_definition macro_definition",
    ),
    "ocaml": Grammar("tree-sitter-ocaml", _OCAML, "language_ocaml"),
    "ocaml_interface": Grammar("tree-sitter-ocaml", _OCAML, "language_ocaml_interface"),
    "sql": Grammar(
        "tree-sitter-sql",
        "create_table create_view create_materialized_view create_function create_procedure create_trigger create_type",
    ),
}
VARIANTS = {"tsx": "tsx", "mli": "ocaml_interface"}
"""Extensions whose grammar isn't the one that is named like their language."""


@lru_cache(maxsize=32)
def load(name: str) -> tuple[Language, frozenset[int]]:
    """Return the language of a grammar, and the ids of the kinds of nodes that are definitions."""
    from tree_sitter import Language

    grammar = GRAMMARS[name]
    module = importlib.import_module(grammar.package.replace("-", "_"))
    language = Language(getattr(module, grammar.function)())
    ids = [language.id_for_node_kind(kind, True) for kind in grammar.definitions.split()]
    return language, frozenset(each for each in ids if each is not None)


def parse(name: str, source: bytes) -> Tree | None:
    """Return the tree of a UTF-8 source, or None beyond any of the bounds above. Raises MemoryError.

    What is wrong in the source is skipped over as well as can be.
    """
    from tree_sitter import Parser

    if len(source) > MAX_BYTES or _nesting(source) > MAX_NESTING or _RUN.search(source):
        return None
    steps = 0
    end = time.thread_time() + MAX_SECONDS

    def stop(*_: object) -> bool:
        nonlocal steps
        steps += 1
        return steps > STEPS_PER_BYTE * len(source) + FREE_STEPS or time.thread_time() > end

    def read(offset: int, _: object) -> bytes:
        return source[offset : offset + _PIECE]

    try:
        return Parser(load(name)[0]).parse(read, encoding="utf8", progress_callback=stop)
    except ValueError:  # the callback stopped it
        return None
    except SystemError as error:  # a MemoryError that the library let pass, and came upon at the next call of Python
        raise MemoryError from error


def _nesting(source: bytes) -> int:
    """The most brackets that are open at once, whatever they stand in."""
    return max(accumulate(map(_BRACKETS.__getitem__, source.translate(None, _NOT_BRACKETS))), default=0)
