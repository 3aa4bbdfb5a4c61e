"""Published tables in notebooks and in other people's assets: as Arrow, as a data frame, as paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kb_pipeline_tests.defs.conftest import Project, failure_sentence

DOCUMENTS = dg.AssetKey(["local_directory", "documents"])


def load(project: Project, kind: Any, partition: str) -> Any:
    return project.definitions.load_asset_value(
        DOCUMENTS, python_type=kind, instance=project.instance, partition_key=partition
    )


def test_one_partition_as_arrow_data_frame_and_path(project: Project) -> None:
    assert project.run("local_directory/documents", partition="handbook").success
    table = load(project, pa.Table, "handbook")
    assert isinstance(table, pa.Table)
    assert dict(zip(table["key"].to_pylist(), table["status"].to_pylist(), strict=True)) == {
        "drafts/": "excluded",
        "tide.md": "parsed",
        "wind.md": "parsed",
    }
    frame = load(project, pd.DataFrame, "handbook")
    assert isinstance(frame, pd.DataFrame)
    assert frame["title"].dropna().tolist() == ["Tide", "Wind"]
    paths = load(project, None, "handbook")
    assert list(paths) == ["handbook"]
    assert pq.read_table(paths["handbook"]).equals(table)
    assert isinstance(paths["handbook"], Path)


def test_a_range_as_arrow_leaves_out_what_was_never_made(project: Project) -> None:
    names = project.folders(3, dead=[1])
    assert not project.run("local_directory/documents", between=(names[0], names[2])).success
    seen: dict[str, Any] = {}
    everything = dg.AllPartitionMapping()

    @dg.asset(ins={"documents": dg.AssetIn(DOCUMENTS, partition_mapping=everything)}, io_manager_key="mem")
    def titles(documents: pa.Table) -> int:
        seen["titles"] = sorted(documents["title"].to_pylist())
        return documents.num_rows

    @dg.asset(ins={"documents": dg.AssetIn(DOCUMENTS, partition_mapping=everything)}, io_manager_key="mem")
    def rows(documents: pd.DataFrame) -> int:
        seen["rows"] = len(documents)
        return len(documents)

    @dg.asset(ins={"documents": dg.AssetIn(DOCUMENTS, partition_mapping=everything)}, io_manager_key="mem")
    def files(documents: dict[str, Path]) -> int:
        seen["files"] = sorted(documents)
        return len(documents)

    job = dg.define_asset_job("theirs", selection=[titles, rows, files])
    theirs = dg.Definitions(assets=[titles, rows, files], jobs=[job], resources={"mem": dg.mem_io_manager})
    merged = dg.Definitions.merge(project.definitions, theirs)
    result = merged.resolve_job_def("theirs").execute_in_process(instance=project.instance, raise_on_error=False)
    assert result.success, failure_sentence(result)
    assert seen == {"titles": ["Note 0", "Note 2"], "rows": 2, "files": ["c0", "c2"]}


def test_a_partition_that_was_never_made_is_an_error_that_says_what_to_run(project: Project) -> None:
    with pytest.raises(Exception, match="never materialized for handbook") as caught:
        load(project, pa.Table, "handbook")
    text = "".join(str(each) for each in (caught.value, caught.value.__cause__))
    assert "kb materialize local_directory/documents --partition handbook" in text


def test_it_stores_nothing_and_says_so(project: Project) -> None:
    @dg.asset(io_manager_key="partition_tables", key=["local_directory", "mine"])
    def mine() -> int:
        return 1

    job = dg.define_asset_job("theirs", selection=[mine])
    merged = dg.Definitions.merge(project.definitions, dg.Definitions(assets=[mine], jobs=[job]))
    result = merged.resolve_job_def("theirs").execute_in_process(instance=project.instance, raise_on_error=False)
    assert not result.success
    assert "local_directory/mine: the IO manager partition_tables only loads" in failure_sentence(result)
