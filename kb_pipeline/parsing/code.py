"""Source code and configuration files: the text is kept as it is, in groups of lines.

What belongs here: which extensions are code, and where code may be parted. No language is parsed.
"""

from __future__ import annotations

from kb_pipeline.parsing.document import Block, BlockKind, Document
from kb_pipeline.parsing.spans import line_spans
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
    """Parse source code: a block is a run of lines that begins, after a blank line, with one that isn't indented."""
    text, encoding = decode(data)
    blocks: list[Block] = []
    start: int | None = None
    end = 0
    blank_before = False
    for first, last in line_spans(text):
        length = len(text[first:last].rstrip())
        if not length:
            blank_before = True
            continue
        # Closing brackets end the group above them, even after a blank line.
        if start is not None and blank_before and not text[first].isspace() and text[first] not in ")]}":
            blocks.append(Block(BlockKind.CODE, start, end))
            start = None
        start = first if start is None else start
        end = first + length
        blank_before = False
    if start is not None:
        blocks.append(Block(BlockKind.CODE, start, end))
    metadata = {"encoding": encoding, "programming_language": language(name) or "unknown"}
    return Document(text, "text/x-source", tuple(blocks), name.rpartition("/")[2], metadata)
