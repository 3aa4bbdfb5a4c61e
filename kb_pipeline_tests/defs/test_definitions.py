"""Loading the code location: light, quick, and with one clear error where kb.yaml is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = [
    "torch",
    "transformers",
    "sentence_transformers",
    "sklearn",
    "lancedb",
    "boto3",
    "google",
    "azure",
    "pypdfium2",
    "pandas",
]


def environment(config: Path | None = None, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "KB_CONFIG")}
    return kept | ({"KB_CONFIG": str(config)} if config else {}) | more


def python(code: str, config: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment(config), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "kb.yaml"
    (tmp_path / "docs").mkdir()
    path.write_text(
        "sources:\n"
        "  - {name: handbook, type: local_directory, path: ./docs}\n"
        "  - {name: archive, type: local_zip, path: ./archives/*.zip}\n"
    )
    return path


def test_loading_the_code_location_imports_nothing_heavy(config: Path) -> None:
    code = f"""
import sys
import dagster
before = set(sys.modules)
import kb_pipeline.definitions as definitions
definitions.build_defs().get_repository_def()
definitions.defs
new = set(sys.modules) - before
print([name for name in {HEAVY!r} if name in new])
"""
    assert python(code, config) == "[]"


def test_the_import_costs_less_than_dagster_itself(config: Path) -> None:
    def best(module: str) -> float:
        code = f"import time; start = time.process_time(); import {module}; print(time.process_time() - start)"
        return min(float(python(code, config)) for _ in range(3))

    alone, ours = best("dagster"), best("kb_pipeline.definitions")
    assert ours < 2 * alone, f"import dagster: {alone:.2f} s of CPU, import kb_pipeline.definitions: {ours:.2f} s"


@pytest.mark.parametrize("what", ["missing", "bad"])
def test_a_wrong_configuration_is_one_clear_error(tmp_path: Path, config: Path, what: str) -> None:
    if what == "missing":
        config.unlink()
        expected = f"{config}: "
    else:
        config.write_text("sources:\n  - name: handbook\n    type: local_directory\n    path: ./docs\n    shard: 2\n")
        expected = f"{config}:5: sources[0].shard: "
    home = tmp_path / "home"
    home.mkdir()
    command = [str(Path(sys.executable).with_name("dagster")), "definitions", "validate", "-m", "kb_pipeline.definitions"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(config, DAGSTER_HOME=str(home)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert said.count(expected) == 1, said
    assert said.count("Traceback") == 0, said
    assert len(said.splitlines()) < 30, said
