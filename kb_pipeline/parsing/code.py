"""Source code and configuration files: the text is kept as it is, in blocks by definition or by groups of lines.

What belongs here: which extensions are code, and its blocks. What doesn't: finding definitions.

Blocks are flat, and their heading paths tell what they are part of. A definition without others inside it is one block.
One with others is a run of blocks: its own text before, between and after those inside it has its path, and theirs begin
with it. Between two blocks of its own text lies one that is deeper, so two blocks side by side with the same path
belong to two definitions of the same name. Text outside of all definitions has no path.
"""

from __future__ import annotations

from collections.abc import Iterator

from kb_pipeline.parsing import definitions
from kb_pipeline.parsing.definitions import Definition
from kb_pipeline.parsing.document import Block, BlockKind, Document
from kb_pipeline.parsing.grammars import GRAMMARS, VARIANTS
from kb_pipeline.parsing.spans import line_spans, stripped_span
from kb_pipeline.parsing.text import decode

LANGUAGES = {
    **dict.fromkeys(["py", "pyi", "pyx"], "python"),
    **dict.fromkeys(["c", "h"], "c"),
    **dict.fromkeys(["cc", "cpp", "cxx", "hh", "hpp", "hxx", "cu", "cuh"], "cpp"),
    **dict.fromkeys(["js", "jsx", "mjs", "cjs"], "javascript"),
    **dict.fromkeys(["ts", "tsx"], "typescript"),
    **dict.fromkeys(["sh", "bash", "zsh"], "shell"),
    **dict.fromkeys(["yaml", "yml"], "yaml"),
    **dict.fromkeys(["hs", "lhs"], "haskell"),
    **dict.fromkeys(["ml", "mli"], "ocaml"),
    **dict.fromkeys(["jsonc", "json5"], "json5"),
    "cs": "csharp",
    "css": "css",
    "go": "go",
    "ini": "ini",
    "java": "java",
    "jl": "julia",
    "kt": "kotlin",
    "lean": "lean",
    "lua": "lua",
    "php": "php",
    "pl": "perl",
    "proto": "protobuf",
    "r": "r",
    "rb": "ruby",
    "rs": "rust",
    "scala": "scala",
    "sql": "sql",
    "swift": "swift",
    "toml": "toml",
    "v": "coq",
}
FILE_NAMES = {"makefile": "make", "dockerfile": "docker", "cmakelists.txt": "cmake"}


def language(name: str) -> str | None:
    """Return the language that a file name stands for, or None when it is no name of source code."""
    lower = name.rpartition("/")[2].lower()
    return FILE_NAMES.get(lower) or LANGUAGES.get(lower.rpartition(".")[2] if "." in lower else "")


def parse(data: bytes, name: str) -> Document:
    """Parse source code into blocks by definition. Where there is no grammar, or none are found, by groups of lines."""
    text, encoding = decode(data)
    spoken = language(name) or "unknown"
    grammar = VARIANTS.get(name.rpartition(".")[2].lower(), spoken)
    found = definitions.find(text, grammar) if grammar in GRAMMARS else []
    metadata = {"encoding": encoding, "programming_language": spoken}
    return Document(text, "text/x-source", tuple(_blocks(text, found)), name.rpartition("/")[2], metadata)


def _blocks(text: str, outermost: list[Definition]) -> Iterator[Block]:
    done = 0
    for each in outermost:
        yield from _groups(text, done, each.start)
        yield from _parts(text, each)
        done = each.end
    yield from _groups(text, done, len(text))


def _parts(text: str, definition: Definition) -> Iterator[Block]:
    """Yield the blocks of a definition: its own text, and those inside it."""
    done = definition.start
    for each in definition.inside:
        yield from _own(text, done, each.start, definition.path)
        yield from _parts(text, each)
        done = each.end
    yield from _own(text, done, definition.end, definition.path)


def _own(text: str, start: int, end: int, path: tuple[str, ...]) -> Iterator[Block]:
    """Yield ``text[start:end]`` as a block, with the indent of its first line; nothing where it is blank."""
    for first, last in stripped_span(text, start, end):
        line = text.rfind("\n", 0, first) + 1
        yield Block(BlockKind.CODE, first if text[line:first].strip() else max(line, start), last, path)


def _groups(text: str, low: int, high: int) -> Iterator[Block]:
    """Yield groups of lines: each begins, after a blank line, with one that isn't indented."""
    start: int | None = None
    end = 0
    blank_before = False
    for first, last in line_spans(text, low, high):
        length = len(text[first:last].rstrip())
        if not length:
            blank_before = True
            continue
        # Closing brackets end the group above them, even after a blank line.
        if start is not None and blank_before and not text[first].isspace() and text[first] not in ")]}":
            yield Block(BlockKind.CODE, start, end)
            start = None
        start = first if start is None else start
        end = first + length
        blank_before = False
    if start is not None:
        yield Block(BlockKind.CODE, start, end)
