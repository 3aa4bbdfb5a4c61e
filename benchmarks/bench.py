"""``make bench``: every part, one after the other; a table of all figures, and one JSON document per part.

    python benchmarks/bench.py [PART …] [--documents FOLDER] [--formats FOLDER] [--retrieval BEIR_FOLDER …]

Writes ``benchmarks/results/PART.json`` and the tables of docs/performance.md, which quotes nothing else. Exits 1 when a
figure misses its target.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.processes import measure

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "demo"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- figures of {}: written by make bench -->", "<!-- end -->"
TIMEOUT = 3 * 3600.0


def commands(documents: Path, formats: Path, retrieval: Sequence[Path]) -> dict[str, list[str]]:
    """Part -> its command line, without the interpreter."""
    found = {"ingest": ["benchmarks/ingest.py", str(documents)]}
    for folder in retrieval:
        found[f"retrieval-{folder.name}"] = ["benchmarks/retrieval.py", str(folder)]
    found |= {"faults": ["benchmarks/faults.py", "--storm", "60", "--rounds", "5", "--documents", "150"]}
    found |= {"noop": ["benchmarks/noop.py"], "ui": ["benchmarks/ui.py"]}
    found |= {"parsing": ["benchmarks/parsing.py", str(formats), "--rounds", "5"], "memory": ["benchmarks/memory.py"]}
    found |= {"vector_store": ["benchmarks/vector_store.py"]}
    found |= {"sandbox": ["benchmarks/sandbox.py", str(documents)]}
    # The demo has what other folders may lack: LaTeX, notebooks, MathML.
    folders = [folder for folder in (documents, formats) if DEMO not in (folder, *folder.parents)]
    return found | {"chunking": ["benchmarks/chunking.py", *map(str, folders), str(DEMO)]}


def run(part: str, command: Sequence[str]) -> None:
    """Measure one part and keep its document."""
    results.say(f"== {part}")
    keep(part, command, measure([sys.executable, *command, "--json"], cwd=ROOT, timeout=TIMEOUT).json)


def keep(part: str, command: Sequence[str], document: Mapping[str, Any]) -> None:
    """Write the document that a part's command printed, with how and when it was made."""
    # Folders are named by their last part: where they lie on this machine is nobody's business.
    shown = [Path(word).name if Path(word).is_absolute() else word for word in command]
    made = {"part": part, "command": shlex.join(["python", *shown]), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    results.RESULTS.mkdir(exist_ok=True)
    text = json.dumps({**made, **document}, indent=1, ensure_ascii=False) + "\n"
    (results.RESULTS / f"{part}.json").write_text(text, encoding="utf-8")


def collections_together(documents: Mapping[str, Mapping[str, Any]]) -> list[results.Figure]:
    """The mean over all collections: hybrid search must be above both of its halves."""
    modes = [document["modes"] for part, document in documents.items() if part.startswith("retrieval-")]
    if not modes:
        return []
    found = []
    for measure_ in ("ndcg@10", "recall@100"):
        mean = {mode: round(statistics.mean(each[mode][measure_] for each in modes), 4) for mode in modes[0]}
        better = max(mean["vector"], mean["text"])
        name = f"hybrid {measure_}, mean of {len(modes)} collections"
        reference = "vector" if better == mean["vector"] else "text"
        found.append(
            results.Figure(name, mean["hybrid"], "", better, f"{reference} alone", 1.0, better="higher", of_ratio=True)
        )
    return found


def stored() -> dict[str, dict[str, Any]]:
    """Part -> its last document, of all parts that were ever measured."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.RESULTS.glob("*.json"))}


def shown(documents: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the page shows: the parts, and the judged collections taken together."""
    together = collections_together(documents)
    if not together:
        return dict(documents)
    first = next(document for part, document in documents.items() if part.startswith("retrieval-"))
    summary = {"part": "retrieval", "command": "make bench", "date": first["date"], "machine": first["machine"]}
    return {**documents, "retrieval": {**summary, "figures": [each.document() for each in together]}}


def markdown(document: Mapping[str, Any]) -> str:
    """One part as it stands on the page: command, machine, table."""
    machine = document["machine"]
    lines = [
        f"`{document['command']}`, {document['date']}: {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['memory_gb']} GB, Python {machine['python']}.",
        "",
        "| Figure | Value | Reference | Ratio | Target | Verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in results.rows(document["figures"]):
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def page(text: str, documents: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with the tables of these parts in their places. Raises ValueError when a part has no place on it."""
    for part, document in documents.items():
        begin = BEGIN.format(part)
        head, marker, rest = text.partition(begin)
        _, end, tail = rest.partition(END)
        if not marker or not end:
            raise ValueError(f"docs/performance.md has no place for {part}: {begin} … {END}")
        text = f"{head}{begin}\n\n{markdown(document)}\n\n{end}{tail}"
    return text


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help="ingest, faults, noop, ui, parsing, vector_store, sandbox, chunking (default: all)",
    )
    parser.add_argument("--documents", type=Path, default=DEMO / "handbook", metavar="FOLDER", help="Markdown files")
    parser.add_argument("--formats", type=Path, default=DEMO, metavar="FOLDER", help="files of all formats")
    parser.add_argument("--retrieval", type=Path, nargs="*", default=[], metavar="BEIR_FOLDER", help="judged collections")
    arguments = parser.parse_args()
    retrieval = [folder.absolute() for folder in arguments.retrieval]
    known = commands(arguments.documents.absolute(), arguments.formats.absolute(), retrieval)
    if unknown := set(arguments.parts) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    if not arguments.retrieval:
        results.say("no --retrieval folders: search quality is not measured")
    for part in arguments.parts or known:
        run(part, known[part])
    documents = shown(stored())
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), documents), encoding="utf-8")
    figures = [each for document in documents.values() for each in document["figures"]]
    print(results.table(figures))
    missed = [each["name"] for each in figures if each["verdict"] == "missed"]
    if missed:
        raise SystemExit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
