"""How well search finds: nDCG@10 and recall@100 of the three modes on a judged collection in BEIR's layout.

    python -m benchmarks.retrieval BEIR_FOLDER --json

The folder holds corpus.jsonl (_id, title, text), queries.jsonl (_id, text) and qrels/test.tsv (query-id, corpus-id,
score, after a line of headings). Everything goes the way a user's documents go: one file per document in a folder,
``kb run`` as a process, and the published release searched by ``Release.search``. A document's score is that of its
best chunk.

Beside the modes stand two references, computed here with numpy and the same model:

- ``exact``: every chunk's vector compared with the query's, without the database. ``vector`` must equal it.
- ``truncated``: one vector per document, title and text cut off where the model stops reading. It tells whether cutting
  documents into chunks is worth while.

Documents are written as plain text, the title as a paragraph before the text: the words of a collection are no markup,
and read as Markdown a ``*`` or ``|`` in an abstract would mean something. Files are numbered, because ids may hold
characters that names can't. The measures are defined in ``benchmarks.ranking``.

Unlike BEIR's own loader, a document that happens to have a query's id is not taken out of that query's ranking: in these
collections the two are unrelated numbers.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.compute as pc

from benchmarks import ranking, results
from benchmarks.processes import KbProject
from benchmarks.ranking import Scores
from benchmarks.results import Figure, say
from kb_pipeline.embedding.base import Embedder, Vectors
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.knowledge_base.search import Mode, Release
from kb_pipeline.settings.load import load
from kb_pipeline.tables import values

DEPTH = 100
"""Documents a ranking holds: what recall@100 needs."""

_FILES_PER_FOLDER = 1_000


@dataclass(frozen=True)
class Collection:
    """A judged collection. ``documents`` and ``queries``: id -> text; ``judgements``: query id -> document id -> gain."""

    name: str
    documents: dict[str, str]
    queries: dict[str, str]
    judgements: dict[str, dict[str, float]]

    @classmethod
    def read(cls, folder: Path) -> Collection:
        """A folder in BEIR's layout. Only queries with a relevant document are kept: the others measure nothing."""
        documents = {each["_id"]: _whole(each) for each in _json_lines(folder / "corpus.jsonl")}
        judgements: dict[str, dict[str, float]] = {}
        with (folder / "qrels" / "test.tsv").open(encoding="utf-8", newline="") as lines:
            rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            next(rows)
            for query, document, gain in rows:
                judgements.setdefault(query, {})[document] = float(gain)
        queries = {each["_id"]: each["text"] for each in _json_lines(folder / "queries.jsonl")}
        judged = {query for query, gains in judgements.items() if any(gain > 0 for gain in gains.values())}
        kept = {query: text for query, text in queries.items() if query in judged and text.strip()}
        return cls(folder.resolve().name, documents, kept, {query: judgements[query] for query in kept})


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _whole(document: dict[str, Any]) -> str:
    parts = (document.get("title") or "", document.get("text") or "")
    return "\n\n".join(part.strip() for part in parts if part.strip())


def write(documents: dict[str, str], folder: Path) -> dict[str, str]:
    """Write each document as a text file. Returns path below the folder -> document id."""
    paths = {}
    for number, (document, text) in enumerate(documents.items()):
        path = f"{number // _FILES_PER_FOLDER:04}/{number:08}.txt"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text.encode("utf-8", "replace"))
        paths[path] = document
    return paths


Ranker = Callable[[str], Sequence[str]]
"""Query id -> document ids, best first, each once."""


class _Searched:
    """Rankings by the release's own search."""

    def __init__(self, release: Release, collection: Collection, ids: dict[str, str], vectors: dict[str, Vectors]) -> None:
        self._release = release
        self._collection = collection
        self._ids = ids
        self._vectors = vectors

    def mode(self, mode: Mode) -> Ranker:
        return lambda query: self._ranking(query, mode)

    def _ranking(self, query: str, mode: Mode) -> list[str]:
        """Search deeper until DEPTH documents are among the chunks, or no more chunks come."""
        chunks = DEPTH
        while True:
            hits = self._release.search(self._collection.queries[query], lambda _: self._vectors[query], k=chunks, mode=mode)
            found = list(dict.fromkeys(self._ids[hit.document_id] for hit in hits))
            if len(found) >= DEPTH or len(hits) < chunks:
                return found[:DEPTH]
            chunks *= 2


def compared(owners: Sequence[str], matrix: Vectors, vectors: dict[str, Vectors]) -> Ranker:
    """Rankings by the greatest cosine between the query's vector and those of a document, all compared."""
    units = _unit(matrix)
    names = list(dict.fromkeys(owners))
    place = {name: position for position, name in enumerate(names)}
    owner = np.array([place[each] for each in owners])

    def ranked(query: str) -> list[str]:
        best = np.full(len(names), -np.inf)
        np.maximum.at(best, owner, units @ _unit(vectors[query]))
        return [names[position] for position in np.argsort(-best, kind="stable")[:DEPTH]]

    return ranked


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units: Vectors = (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    return units


def _evaluated(collection: Collection, ranker: Ranker) -> Scores:
    found = ranking.evaluate({query: ranker(query) for query in collection.queries}, collection.judgements)
    return {name: round(value, 4) for name, value in found.items()}


def measured(folder: Path, root: Path) -> tuple[dict[str, Any], list[Figure]]:
    """The measurement of one collection, in an empty folder ``root``."""
    collection = Collection.read(folder)
    say(f"{collection.name}: {len(collection.documents)} documents, {len(collection.queries)} judged queries")
    paths = write(collection.documents, root / "documents")
    project = KbProject(root, [{"name": "beir", "type": "local_directory", "path": "./documents"}])
    run = project.kb("run", "--json")
    say(f"kb run: {run.seconds:.0f} s")

    workspace = Workspace(load(root / "kb.yaml"))
    embedder: Embedder = workspace.embedder
    release = Release.open(workspace.storage)
    rows = release.to_arrow(["document_id", "key", "vector"])
    keys = values(rows["key"])
    ids = {document: paths[key] for document, key in zip(values(rows["document_id"]), keys, strict=True)}
    chunk_vectors: Vectors = pc.list_flatten(rows["vector"].combine_chunks()).to_numpy().reshape(rows.num_rows, -1)
    vectors = {query: embedder.embed_query(text) for query, text in collection.queries.items()}

    searched = _Searched(release, collection, ids, vectors)
    modes = {}
    for mode in get_args(Mode):
        say(f"searching: {mode}")
        modes[mode] = _evaluated(collection, searched.mode(mode))
    say("references")
    exact = _evaluated(collection, compared([paths[key] for key in keys], chunk_vectors, vectors))
    written = {document: text for document, text in collection.documents.items() if text}
    whole = embedder.embed(list(written.values()))
    truncated = _evaluated(collection, compared(list(written), whole, vectors))

    own = {
        "collection": {
            "name": collection.name,
            "documents": len(collection.documents),
            "documents_found": len(set(ids.values())),
            "chunks": rows.num_rows,
            "queries": len(collection.queries),
        },
        "modes": {mode: modes[mode] for mode in ("vector", "text", "hybrid")},
        "exact": exact,
        "truncated": truncated,
    }
    return own, _figures(modes, exact, truncated)


def _figures(modes: dict[str, Scores], exact: Scores, truncated: Scores) -> list[Figure]:
    vector, text, hybrid = modes["vector"], modes["text"], modes["hybrid"]
    figures = [Figure(f"{mode} {name}", value, "") for mode in modes for name, value in modes[mode].items()]
    for name in exact:
        apart = round(abs(vector[name] - exact[name]), 4)
        figures.append(Figure(f"vector apart from exact, {name}", apart, "", target=0.002))
    for name in truncated:
        gain = round(vector[name] - truncated[name], 4)
        note = f"one truncated vector: {truncated[name]:g}"
        figures.append(Figure(f"vector above truncated, {name}", gain, "", target=-0.005, better="higher", note=note))
    for name in hybrid:
        gain = round(hybrid[name] - max(vector[name], text[name]), 4)
        figures.append(Figure(f"hybrid above the better of the two, {name}", gain, "", target=-0.01, better="higher"))
    return figures


def part(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Figure]]:
    """Retrieval quality, for ``results.main``."""
    with tempfile.TemporaryDirectory(prefix="kb-retrieval-") as folder:
        return measured(arguments.folder, Path(folder))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="BEIR_FOLDER", help="corpus.jsonl, queries.jsonl, qrels/test.tsv")
    results.main(parser, part)


if __name__ == "__main__":
    main()
