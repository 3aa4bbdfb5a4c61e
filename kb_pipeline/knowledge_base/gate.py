"""The gate between a candidate and a release: the checks, and what they said.

What belongs here: which checks there are and whether a candidate has passed them. What doesn't: how they are run by
Dagster (``defs.corpus``), the publication (``publish``).

A check is a function from a candidate to a finding. Its name and the first line of its docstring are what people see. To
add one, name it in ``CHECKS``. An error keeps the candidate from becoming a release; a warning is told.
"""

from __future__ import annotations

from collections.abc import Callable

from kb_pipeline.findings import Finding
from kb_pipeline.knowledge_base.candidates import Candidate, Candidates
from kb_pipeline.knowledge_base.comparison import Comparison, compare_some, judge
from kb_pipeline.knowledge_base.index import Index
from kb_pipeline.storage.storage import Storage

Check = Callable[[Storage, Candidate], Finding]


def index_equals_tables(storage: Storage, candidate: Candidate) -> Finding:
    """The index holds exactly the rows of the partition tables: those that changed compared row by row, the others counted.

    A version that passed once is only counted again. The full comparison is that of ``verify``.
    """
    before = Candidates(storage).verdicts(candidate).get("index_equals_tables")
    keys = () if before is not None and before.passed else candidate.compared

    def compare() -> Comparison:
        index = Index.at(storage, candidate.model.dimension, candidate.version)
        return compare_some(storage, index, candidate.partitions, keys)

    return judge("the index", "run `kb verify --heal`", compare)


CHECKS: tuple[Check, ...] = (index_equals_tables,)


def inspect(storage: Storage, check: Check) -> Finding:
    """Run one check on the candidate and record what it found."""
    candidates = Candidates(storage)
    candidate = candidates.last()
    if candidate is None:
        return Finding(True, "there is no candidate to check")
    finding = check(storage, candidate)
    candidates.judge(candidate, check.__name__, finding)
    return finding


def outstanding(candidates: Candidates, candidate: Candidate | None) -> list[str]:
    """What keeps a candidate from becoming a release: a sentence a check that it failed, or wasn't put to."""
    if candidate is None:
        return []
    verdicts = candidates.verdicts(candidate)
    found = []
    for check in CHECKS:
        verdict = verdicts.get(check.__name__)
        if verdict is None:
            found.append(f"{check.__name__} has not looked at it")
        elif verdict.blocks:
            found.append(f"{check.__name__}: {verdict.sentence}")
    return found
