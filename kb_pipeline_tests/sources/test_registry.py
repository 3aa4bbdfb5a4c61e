from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kb_pipeline.sources import registry
from kb_pipeline.sources.base import SourceContext
from kb_pipeline.sources.upload import Upload, UploadConfig


def install(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    entry = EntryPoint(name, value, registry.GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda **_: (entry,))


def module(monkeypatch: pytest.MonkeyPatch, **content: Any) -> None:
    made = ModuleType("foreign_connector")
    made.__dict__.update(content)
    monkeypatch.setitem(sys.modules, "foreign_connector", made)


def test_the_built_in_types_are_those_of_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["entry-points"][registry.GROUP] == registry._BUILT_IN


def test_a_checkout_has_the_built_in_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda **_: ())
    assert list(registry.source_types()) == ["local_directory", "local_zip", "upload"]
    for name in registry.source_types():
        assert registry.source_class(name).Config.model_fields["name"]


def test_a_third_partys_type_is_found_and_cannot_replace_a_built_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, Source=Upload)
    install(monkeypatch, "wiki", "foreign_connector:Source")
    assert "wiki" in registry.source_types()
    assert registry.source_class("wiki") is Upload
    install(monkeypatch, "upload", "foreign_connector:Nothing")
    assert registry.source_class("upload") is Upload


@pytest.mark.parametrize(
    ("content", "message"),
    [({}, "can't be imported: AttributeError"), ({"Source": object}, "no settings class")],
)
def test_a_broken_connector_says_where_it_comes_from(
    monkeypatch: pytest.MonkeyPatch, content: dict[str, Any], message: str
) -> None:
    module(monkeypatch, **content)
    install(monkeypatch, "wiki", "foreign_connector:Source")
    with pytest.raises(registry.ConnectorBroken, match=message) as caught:
        registry.source_class("wiki")
    assert "foreign_connector" in str(caught.value)


def test_a_connector_without_verbs_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, Source=type("Source", (), {"Config": UploadConfig, "list": lambda self: iter(())}))
    install(monkeypatch, "wiki", "foreign_connector:Source")
    with pytest.raises(registry.ConnectorBroken, match="read, probe"):
        registry.source_class("wiki")


def test_build(tmp_path: Path) -> None:
    source = registry.build(UploadConfig(name="x", type="upload"), SourceContext(tmp_path, tmp_path))
    assert isinstance(source, Upload)
    with pytest.raises(registry.UnknownSourceType, match="installed ones are local_directory"):
        registry.source_class("nothing")
