"""What the Markdown files say is true: commands, settings, statuses, links, paths and the example source."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import click
import pytest
import yaml
from pydantic import BaseModel

from kb_pipeline import stages, tables
from kb_pipeline.cli.main import cli
from kb_pipeline.cli.watch import JsonLines
from kb_pipeline.defs.runs import SeenRun
from kb_pipeline.flow.errors import ErrorClass
from kb_pipeline.monitoring.progress import ProgressEvent
from kb_pipeline.orchestrator import Report, SourceCounts
from kb_pipeline.settings.load import load
from kb_pipeline.settings.model import Keys
from kb_pipeline.settings.profiles import PROFILES, Profile
from kb_pipeline.settings.strategies import DEFAULTS
from kb_pipeline.sources import registry
from kb_pipeline.sources.base import ItemUnreadable, ItemVanished, ListingFailed, SourceConfig, SourceContext
from kb_pipeline.statuses import Status
from kb_pipeline.storage.storage import KNOWLEDGE_BASE, LEDGER, STAGING, Storage, key_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def blocks(text: str, language: str) -> list[str]:
    """Bodies of the fenced blocks of a language; in shell blocks, continued lines are joined."""
    return [body.replace("\\\n", "") for found, body in _FENCE.findall(text) if found == language]


def prose(text: str) -> str:
    return _FENCE.sub("", text)


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one of the same or a higher level."""
    level = len(heading) - len(heading.lstrip("#"))
    start = text.index(f"\n{heading}\n") + len(heading) + 2
    end = re.search(rf"^#{{1,{level}}} ", text[start:], re.MULTILINE)
    return text[start : start + end.start()] if end else text[start:]


def rows(text: str) -> dict[str, list[str]]:
    """Rows of the tables in a text: first cell (without backticks) -> the other cells."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            first, *rest = (cell.strip() for cell in line.strip().strip("|").split(" | "))
            found[first.strip("`")] = rest
    return found


# Commands


def quoted_commands() -> Iterator[tuple[str, str]]:
    """(page, command line) of every `kb ...` in shell blocks and in the text."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
        for line in [*lines, *(each for each in _INLINE.findall(prose(text).replace("\n", " ")))]:
            bare = re.sub(r"^eval \"\$\((.*)\)\"", r"\1", line.split("  #")[0].strip())
            for part in bare.split("&&"):
                if re.match(r"kb( |$)", part.strip()):
                    yield page.name, part.strip()


COMMANDS = sorted(set(quoted_commands()))


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_quoted_commands_exist_with_their_options(page: str, line: str) -> None:
    arguments = shlex.split(line)[1:]
    command: click.Command = cli
    context = click.Context(cli, info_name="kb")
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        found = command.get_command(context, arguments[0])
        assert found is not None, f"{page}: there is no command {arguments[0]!r} in {line!r}"
        command, arguments = found, arguments[1:]
    known = {name for each in command.params if isinstance(each, click.Option) for name in each.opts}
    options = [each for each in arguments if re.match(r"--?[a-z]", each)]
    assert set(options) <= known, f"{page}: {line!r} has options that don't exist; known: {sorted(known)}"


def test_the_commands_are_found() -> None:
    assert len(COMMANDS) > 30
    assert {line.split()[1] for _, line in COMMANDS if " " in line} >= set(cli.list_commands(click.Context(cli)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_complete_command_lines_in_blocks_parse(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8"), "sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["kb"]:
                continue
            command: click.Command = cli
            context, arguments = click.Context(cli, info_name="kb"), words[1:]
            while isinstance(command, click.Group) and arguments:
                command, arguments = cast(click.Command, command.get_command(context, arguments[0])), arguments[1:]
            try:
                command.make_context("kb", list(arguments))
            except click.UsageError as error:
                pytest.fail(f"{page.name}: {line!r}: {error.message}")


def test_the_changelog_names_every_command() -> None:
    named = set(_INLINE.findall((ROOT / "CHANGELOG.md").read_text(encoding="utf-8")))
    assert named >= set(cli.list_commands(click.Context(cli)))


def test_materialize_and_dagster_lines_name_assets_that_exist() -> None:
    known = {f"{type_}/{asset}" for type_ in registry._BUILT_IN for asset in ("inventory", *stages.names())}
    known |= {"corpus/index", "corpus/knowledge_base"}
    named = []
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8"), "sh"):
            named += [each for some in re.findall(r"(?:kb materialize|--select) (\S+)", block) for each in some.split(",")]
    assert named
    assert set(named) <= known


def test_makefile_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        code = [line for block in blocks(text, "sh") for line in block.splitlines()] + _INLINE.findall(prose(text))
        named |= {match[1] for each in code if (match := re.match(r"make ([a-z-]+)", each))}
    assert {"demo", "test"} <= named <= targets
    assert set(rows(section(CONTRIBUTING, "## Set up and test"))) >= {f"make {target}" for target in targets}


# Settings


EXAMPLES = [(page.name, block) for page in PAGES for block in blocks(page.read_text(encoding="utf-8"), "yaml")]


@pytest.mark.parametrize(("page", "block"), EXAMPLES)
def test_example_settings_load(page: str, block: str, tmp_path: Path) -> None:
    path = tmp_path / "kb.yaml"
    path.write_text(block, encoding="utf-8")
    settings = load(path)
    assert settings.base == tmp_path
    for config in settings.sources:
        registry.build(config, settings.context)


def settings_keys(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, default) of every setting that is no section."""
    for name, field in model.model_fields.items():
        key = above + (field.alias or name)
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from settings_keys(type(default), key + ".")
        else:
            yield key, default


def test_every_setting_is_documented_with_its_default() -> None:
    documented = rows(section(CONFIGURATION, "### Top level"))
    expected = dict(settings_keys(Keys)) | {"pools.gpu": Keys().pools["gpu"]}
    assert set(documented) - {"Key"} == set(expected)
    for key, default in expected.items():
        assert yaml.safe_load(documented[key][1].strip("`")) == json.loads(json.dumps(default)), key


def test_every_setting_of_a_connection_is_documented_with_its_default() -> None:
    common = set(SourceConfig.model_fields)
    connections = section(CONFIGURATION, "### Connections")
    pages: list[tuple[str, type[SourceConfig], set[str]]] = [(connections.split("\n#### ")[0], SourceConfig, common)]
    for type_ in registry._BUILT_IN:
        config = registry.source_class(type_).Config
        pages.append((section(CONFIGURATION, f"#### {type_}"), config, set(config.model_fields) - common))
    for text, config, names in pages:
        documented = rows(text)
        assert set(documented) - {"Key"} == names, config
        for name in names:
            field, shown = config.model_fields[name], documented[name][1]
            if field.is_required():
                assert shown == "required", name
            else:
                assert yaml.safe_load(shown.strip("`")) == json.loads(json.dumps(field.default)), name


def test_the_default_strategies_are_true() -> None:
    documented = rows(section(CONFIGURATION, "## Errors"))
    assert list(documented)[1:] == [kind.value for kind in DEFAULTS]
    for kind, strategy in DEFAULTS.items():
        assert [yaml.safe_load(cell.strip("`")) for cell in documented[kind.value]] == list(strategy.model_dump().values())
    # What the gate finds wrong with a candidate is nobody's to retry.
    assert set(DEFAULTS) == set(ErrorClass) - {ErrorClass.FAILED_CHECK}


def test_the_numbers_of_the_profiles_are_true() -> None:
    documented = rows(section(CONFIGURATION, "## Profiles"))
    assert [name.strip("`") for name in documented["Bound"]] == list(PROFILES)
    assert set(documented) - {"Bound"} == set(Profile.model_fields)
    for name in Profile.model_fields:
        shown = [float(cell.replace(",", "")) for cell in documented[name]]
        assert shown == [float(getattr(profile, name)) for profile in PROFILES.values()], name


def test_every_status_appears_with_its_sentence() -> None:
    documented = rows(section(CONFIGURATION, "## Statuses"))
    assert set(documented) - {"Status"} == {status.value for status in Status}
    for status in Status:
        group, sentence = documented[status.value]
        assert sentence == status.sentence
        assert ("indexed" in group, "transient" in group, "quarantined" in group) == (
            (status.good, status.transient, status.quarantined)
        )


def test_every_exclusion_rule_is_documented() -> None:
    documented = set(rows(section(CONFIGURATION, "## Rules that leave items out"))) - {"Rule"}
    assert documented == {"include", "exclude", "hidden", "link", "special", "storage", "archive", "depth", "no_parser"}
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "kb_pipeline").glob("*/*.py"))
    for rule in documented:
        assert f'"{rule}"' in sources, rule


# Reports


def test_every_field_of_the_reports_is_explained(tmp_path: Path) -> None:
    documented = set(rows(section(OPERATIONS, "## Reading `kb run --json`")))
    assert documented >= {*Report("x").as_dict(), *(each.name for each in fields(SourceCounts))}
    assert documented >= {kind.value for kind in ErrorClass}

    from kb_pipeline.cli.status import _status
    from kb_pipeline.ingestion.workspace import Workspace

    (tmp_path / "kb.yaml").write_text("storage: {url: ./kb}\n", encoding="utf-8")
    report = _status(Workspace(load(tmp_path / "kb.yaml")))
    documented = set(rows(section(OPERATIONS, "## Reading `kb status --json`"))) - {"Field"}
    assert documented == {*report, *report["sources"]["inbox"]}


def test_every_field_of_a_watch_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    shown = JsonLines()
    shown.show(ProgressEvent("r", "a", "documents", 1, 2, None, 0.0))
    shown.run(SeenRun("d", "r", "inventory", "", "queued"))
    written = {name for line in capsys.readouterr().out.splitlines() for name in json.loads(line)}
    cells = set(rows(section(OPERATIONS, "## Watching what runs"))) - {"Field"}
    documented = {name for cell in cells for name in re.findall(r"\w+", cell)}
    assert documented == written


# Architecture


def test_every_direct_dependency_earns_its_place() -> None:
    direct = {re.split(r"[<>=!~\[; ]", each)[0] for each in PROJECT["project"]["dependencies"]}
    assert set(rows(section(ARCHITECTURE, "## Dependencies"))) - {"Package"} == direct


def test_the_floor_plan_is_the_packages() -> None:
    package = ROOT / "kb_pipeline"
    actual = {f"kb_pipeline/{path.parent.name}/" for path in package.glob("*/__init__.py")}
    actual |= {f"kb_pipeline/{path.name}" for path in package.glob("*.py") if path.name != "__init__.py"}
    assert set(rows(section(ARCHITECTURE, "## Floor plan"))) - {"Package or module"} == actual


def test_the_storage_layout_is_the_codes() -> None:
    (layout,) = blocks(section(ARCHITECTURE, "## On disk").split("\n### ")[0], "")
    named = [line.split("  ")[0].rstrip("/") for line in layout.splitlines()]
    storage = Storage.of_folder(Path())
    expected = [LEDGER, STAGING, key_of(f"<type>/{stages.INVENTORY}", "<connection>", "<fingerprint>")]
    expected += [key_of(f"<type>/{asset}", "<partition>", "<fingerprint>") for asset in stages.names()]
    assert set(expected) <= set(named)
    for root in (storage.vectors_location, storage.index_location, KNOWLEDGE_BASE):
        assert any(each == str(root) or each.startswith(f"{root}/") for each in named)


def test_every_schema_is_named() -> None:
    named = {name.removesuffix("()") for name in rows(section(ARCHITECTURE, "### Tables"))} - {"Schema"}
    assert named == {"LISTING", "DOCUMENTS", "MANIFEST", "CHUNKS", "embeddings", "index"}
    assert all(hasattr(tables, name) for name in named)


def test_code_named_in_backticks_exists() -> None:
    for page in PAGES:
        for path in re.findall(r"`((?:kb_pipeline|kb_pipeline_tests|demo|\.ci)/[\w./]*)`", page.read_text(encoding="utf-8")):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
    for name in set(re.findall(r"`((?:defs|ingestion)/\w+\.py)`", ARCHITECTURE)):
        assert (ROOT / "kb_pipeline" / name).exists(), name


# Links


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    text = prose(path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    for target in _LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(path), f"{page.name}: {target}"


# The example source of CONTRIBUTING.md


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> str:
    """The example, installed as its pyproject.toml says; its source type."""
    (code,) = blocks(CONTRIBUTING, "python")
    assert len(code.splitlines()) <= 60
    (text,) = blocks(CONTRIBUTING, "toml")
    ((name, value),) = tomllib.loads(text)["project"]["entry-points"][registry.GROUP].items()
    module = ModuleType(value.partition(":")[0])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "CONTRIBUTING.md", "exec"), module.__dict__)
    entry = EntryPoint(name, value, registry.GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda **_: (entry,))
    return str(name)


def test_the_example_source_works(notes: str, tmp_path: Path) -> None:
    (tmp_path / "kb.yaml").write_text(f"sources: [{{name: mine, type: {notes}, path: notes.json}}]\n", encoding="utf-8")
    settings = load(tmp_path / "kb.yaml")
    source = registry.build(settings.source("mine"), SourceContext(tmp_path, tmp_path / ".kb"))
    with pytest.raises(ListingFailed, match=r"notes\.json can't be read"):
        list(source.list())
    (tmp_path / "notes.json").write_text(json.dumps({"b": "two", "a": "one"}), encoding="utf-8")
    items = list(source.list())
    assert [item.key for item in items] == ["a", "b"]
    assert source.probe().endswith("notes: 2")
    with source.read(items[0]) as stream:
        assert stream.read() == b"one"
    (tmp_path / "notes.json").write_text(json.dumps({"b": "changed"}), encoding="utf-8")
    assert [item.version for item in source.list()] != [items[1].version]
    with pytest.raises(ItemVanished), source.read(items[0]):
        pass
    (tmp_path / "notes.json").unlink()
    with pytest.raises(ItemUnreadable), source.read(items[0]):
        pass


def test_where_a_stranger_is_sent_there_is_what_is_named() -> None:
    lines = [line for line in section(ARCHITECTURE, "## Where do I …").splitlines() if "](../" in line]
    assert len(lines) == 10
    for line in lines:
        path = line.partition("](../")[2].partition(")")[0]
        text = (ROOT / path).read_text(encoding="utf-8")
        for name in _INLINE.findall(line.rpartition("|")[0].rpartition("|")[2])[:1]:
            word = re.split(r"[^A-Za-z_]", name)[0] if "." not in name else name.rpartition(".")[2]
            assert word in text, f"{name} in {path}"
