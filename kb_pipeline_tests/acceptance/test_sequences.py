"""Any sequence of changes ends where a rebuild would, reads what changed and embeds no text twice."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kb_pipeline import tables
from kb_pipeline_tests.acceptance.homes import KINDS, Home, Homes
from kb_pipeline_tests.acceptance.project import Project, difference, directory, equal_releases, install_connectors

_CONNECTIONS = ("first", "second")


@dataclass
class Oracle:
    """What lies in the folders, and what a run over them must report. Every file is one chunk."""

    random: random.Random
    root: Path
    files: dict[str, str] = field(default_factory=dict)
    """Path below the root -> content, as it is now."""
    ran: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Path -> (content, generation) at the last run."""
    generations: dict[str, int] = field(default_factory=dict)
    """Path -> number of its last change."""
    embedded: set[str] = field(default_factory=set)
    changes: int = 0

    def change(self) -> None:
        """One random change."""
        kinds = [self.add, self.add, self.edit, self.revert, self.rename, self.move, self.copy, self.delete]
        kind = self.random.choice(kinds)
        if self.files or kind == self.add:
            kind()

    def add(self) -> None:
        """A new file with a new text."""
        self._put(self._new_path(), self._new_text())

    def edit(self) -> None:
        """A new text in a file."""
        self._put(self._some(), self._new_text())

    def revert(self) -> None:
        """A text that some run has seen already, in a file."""
        if self.embedded:
            self._put(self._some(), self.random.choice(sorted(self.embedded)))

    def rename(self) -> None:
        """Another name in the same connection."""
        old = self._some()
        self._move(old, self._new_path(old.split("/")[0]))

    def move(self) -> None:
        """The same name in a folder of the other connection."""
        old = self._some()
        connection, _, rest = old.partition("/")
        other = _CONNECTIONS[1 - _CONNECTIONS.index(connection)]
        if f"{other}/moved/{rest}" not in self.files:
            self._move(old, f"{other}/moved/{rest}")

    def copy(self) -> None:
        """The same text under a second name."""
        self._put(self._new_path(), self.files[self._some()])

    def delete(self) -> None:
        """A file less."""
        path = self._some()
        (self.root / path).unlink()
        del self.files[path]

    def expect(self, connection: str) -> dict[str, int]:
        """COUNTS of the next run, without ``embedded`` and ``reused``, which depend on who comes first."""
        mine = {path for path in self.files if path.startswith(f"{connection}/")}
        before = {path for path in self.ran if path.startswith(f"{connection}/")}
        unchanged = {path for path in mine & before if self.ran[path][1] == self.generations[path]}
        return {
            "listed": len(mine),
            "indexed": len(mine - unchanged),
            "unchanged": len(unchanged),
            "quarantined": 0,
            "excluded": 0,
            "deleted": len(before - mine),
            "chunks": len(mine),
        }

    def expect_embedded(self) -> int:
        """Texts that no run has seen yet."""
        return len(set(self.files.values()) - self.embedded)

    def note_run(self) -> None:
        """A run has happened."""
        self.ran = {path: (text, self.generations[path]) for path, text in self.files.items()}
        self.embedded |= set(self.files.values())

    def _put(self, path: str, text: str) -> None:
        self.changes += 1
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        self.files[path] = text
        self.generations[path] = self.changes

    def _move(self, old: str, new: str) -> None:
        self.changes += 1
        (self.root / new).parent.mkdir(parents=True, exist_ok=True)
        (self.root / old).rename(self.root / new)
        self.files[new] = self.files.pop(old)
        self.generations[new] = self.changes

    def _some(self) -> str:
        return self.random.choice(sorted(self.files))

    def _new_path(self, connection: str | None = None) -> str:
        self.changes += 1
        folder = self.random.choice(["", "deep/", "deep/er/"])
        return f"{connection or self.random.choice(_CONNECTIONS)}/{folder}file-{self.changes}.md"

    def _new_text(self) -> str:
        self.changes += 1
        word = self.random.choice(["pensions", "gardens", "rivers", "bridges"])
        return f"# Number {self.changes}\n\nWhat number {self.changes} has to say about {word}.\n"


def _marks(kind: str, seed: int) -> list[pytest.MarkDecorator]:
    if seed > 1:
        return [pytest.mark.slow]
    return [] if kind == KINDS[0] else [pytest.mark.sources]


_LANES = [
    pytest.param(kind, seed, steps, marks=_marks(kind, seed), id=f"{kind}-{seed}")
    for kind in KINDS
    for seed, steps in [(1, 3 if kind == KINDS[0] else 2), (2, 6), (3, 6)]
]


@pytest.mark.parametrize(("homes_of", "seed", "steps"), _LANES, indirect=["homes_of"])
def test_a_random_sequence_equals_a_rebuild_and_embeds_nothing_twice(
    tmp_path: Path, homes_of: Homes, seed: int, steps: int
) -> None:
    with homes_of() as home:
        _a_random_sequence(tmp_path, home, seed, steps)


def _a_random_sequence(tmp_path: Path, home: Home, seed: int, steps: int) -> None:
    project, rebuilt = Project(tmp_path / "project", home=home), Project(tmp_path / "rebuilt")
    for each in (project, rebuilt):
        each.configure(*(directory(name, tmp_path / "docs" / name, shards=2 if name == "second" else 1)
                         for name in _CONNECTIONS))  # fmt: skip
    for name in _CONNECTIONS:
        (tmp_path / "docs" / name).mkdir(parents=True)
    oracle = Oracle(random.Random(seed), tmp_path / "docs")
    for _ in range(8):
        oracle.add()
    for step in range(steps):
        if step:
            for _ in range(oracle.random.randint(3, 12)):
                oracle.change()
        report = project.run()
        for name in _CONNECTIONS:
            counts = report["sources"][name]
            expected = oracle.expect(name)
            assert {key: counts[key] for key in expected} == expected, f"step {step}, {name}"
        assert report["totals"]["embedded"] == oracle.expect_embedded(), f"step {step}"
        oracle.note_run()
        texts = sorted(tables.values(project.rows()["text"]))
        assert texts == sorted(oracle.files.values())
    stored = project.stored_vectors()
    assert len(stored) == len(oracle.embedded)
    assert set(stored.values()) == {1}
    rebuilt.run()
    assert equal_releases(project.rows(), rebuilt.rows()), difference(project.rows(), rebuilt.rows())


def test_an_unchanged_run_over_a_thousand_files_reads_nothing_and_embeds_nothing(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", environment=install_connectors(tmp_path / "site"))
    project.configure({"name": "many", "type": "journalled", "path": "many", "journal": "journal"})
    for number in range(1_000):
        # A hundred distinct texts: what is measured here is reading.
        project.write(f"many/{number % 17}/{number}.md", f"Number {number % 100}.\n")
    first = project.run()
    journal = project.root / "journal"
    assert len(journal.read_text().splitlines()) == 1_000
    many = first["sources"]["many"]
    assert (many["indexed"], many["chunks"], many["embedded"]) == (1_000, 1_000, 100)
    second = project.run()
    assert len(journal.read_text().splitlines()) == 1_000, "an unchanged file was read again"
    many = second["sources"]["many"]
    assert (many["unchanged"], many["indexed"], many["embedded"]) == (1_000, 0, 0)
    assert second["release"] == first["release"] == "release-1"
