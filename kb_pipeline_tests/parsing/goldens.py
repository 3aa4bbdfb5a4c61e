"""What the parsers make of one good example of each format, as text files that a person has looked at.

``python -m kb_pipeline_tests.parsing.goldens`` writes them anew: look at the difference before you commit it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kb_pipeline.parsing.document import Document
from kb_pipeline.parsing.registry import HEAD_BYTES, choose
from kb_pipeline_tests.parsing import compound_builder, packages
from kb_pipeline_tests.parsing.pdf_builder import build_pdf

_HERE = Path(__file__).parent
GOLDEN = _HERE / "golden"
_BUILT: dict[str, Callable[[], bytes]] = {
    "sample.docx": packages.sample_docx,
    "sample.pptx": packages.sample_pptx,
    "sample.odt": packages.sample_odt,
    "sample.odp": packages.sample_odp,
    "sample.xlsx": packages.sample_xlsx,
    "sample.epub": packages.sample_epub,
    "sample.msg": compound_builder.sample_msg,
    "sample.pdf": lambda: build_pdf(["One page", "Another\npage"], title="Pages", outline={"First": 0, "Second": 1}),
}


def samples() -> dict[str, bytes]:
    """Return the samples by file name."""
    written = {path.name: path.read_bytes() for path in (_HERE / "samples").iterdir() if path.name.startswith("sample.")}
    return {**written, **{name: build() for name, build in _BUILT.items()}}


def parse(name: str, data: bytes) -> Document:
    """Parse an item in this process with the parser that the registry chooses."""
    parser = choose(name, data[:HEAD_BYTES])
    assert parser is not None, f"{name} has no parser"
    return parser.parse(data, name)


def describe(document: Document) -> str:
    """Return all that a document holds, for people: facts first, then each block with its kind, page and path."""
    lines = [f"media type: {document.media_type}", f"title: {document.title}"]
    lines += [f"{key}: {value}" for key, value in sorted(document.metadata.items())]
    lines += [f"attachment: {file.name} {file.media_type} {len(file.data)} bytes" for file in document.attachments]
    for block in document.blocks:
        page = f" page {block.page}" if block.page is not None else ""
        lines += ["", f"[{block.kind}{page}] {' > '.join(block.heading_path)}", document.text[block.start : block.end]]
    return "\n".join(lines).replace("\r", "\\r") + "\n"


if __name__ == "__main__":
    for sample, data in samples().items():
        (GOLDEN / f"{sample}.txt").write_text(describe(parse(sample, data)), encoding="utf-8")
