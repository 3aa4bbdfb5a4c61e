"""Reading kb.yaml: one call, and either settings or every problem of the file at once.

What belongs here: collecting problems, with lines, from YAML and from the models, and wording them. What doesn't: what
is valid (model.py and the connectors' own settings classes).
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kb_pipeline.settings.errors import ConfigError, Problem
from kb_pipeline.settings.model import INBOX, Keys, Settings
from kb_pipeline.settings.secrets import looks_secret
from kb_pipeline.settings.yaml_nodes import Document, Location, key_path, parse
from kb_pipeline.sources.base import SourceConfig, SourceError
from kb_pipeline.sources.registry import source_class, source_types

_Model = TypeVar("_Model", bound=BaseModel)

_LATER = ("scope", "evaluation")
_LONGEST_VALUE = 60  # characters of a wrong value that a message shows
_EXPECTED = {
    "string_type": "expected text",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping of keys to values",
    "mapping_type": "expected a mapping of keys to values",
    "model_type": "expected a mapping of keys to values",
    "model_attributes_type": "expected a mapping of keys to values",
}


def load(path: Path) -> Settings:
    """Read kb.yaml. Raises ConfigError with all problems: file, line, key path, what was expected, the nearest key."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError([Problem("there is no such file: run `kb init` to write one")], path) from None
    except OSError as error:
        raise ConfigError([Problem(f"can't be read: {error.strerror}")], path) from None
    document = parse(raw)
    if document.problems and document.data is None:
        raise ConfigError(document.problems, path)
    if document.data is None:
        raise ConfigError([Problem("the file is empty: run `kb init` in an empty folder to see what it holds")], path)
    if not isinstance(document.data, dict):
        raise ConfigError([Problem("expected a mapping of keys to values", document.line(()))], path)
    reader = _Reader(document)
    settings = reader.settings(Path(os.path.abspath(path)))
    if settings is None:
        raise ConfigError(sorted(reader.problems, key=lambda problem: problem.line or 0), path)
    return settings


class _Reader:
    def __init__(self, document: Document) -> None:
        self._document = document
        self.problems = list(document.problems)

    def settings(self, path: Path) -> Settings | None:
        """The settings, or None when there are problems."""
        # A section with all its keys commented out is null in YAML: the same as leaving it out.
        data = {key: value for key, value in self._document.data.items() if value is not None}
        sources = self._sources(data.pop("sources", []))
        keys = self._validate(Keys, data, ())
        if self.problems or keys is None:
            return None
        values = {name: getattr(keys, name) for name in Keys.model_fields}
        return Settings(**{**values, "sources": sources, "base": path.parent, "path": path})

    def _sources(self, entries: Any) -> tuple[SourceConfig, ...]:
        if not isinstance(entries, list):
            self._add(("sources",), "expected a list of connections")
            return ()
        self._check_names(entries)
        found = (self._source(entry, ("sources", i)) for i, entry in enumerate(entries))
        return tuple(config for config in found if config is not None)

    def _source(self, entry: Any, place: Location) -> SourceConfig | None:
        if not isinstance(entry, dict):
            self._add(place, "expected a mapping with at least name and type")
            return None
        known = list(source_types())
        kind = entry.get("type")
        model: type[SourceConfig] | None = None
        if "type" not in entry:
            self._add(place, f"missing; expected one of {', '.join(known)}", missing="type")
        elif not isinstance(kind, str):
            self._add((*place, "type"), f"expected one of {', '.join(known)}")
        elif kind not in known:
            self._add(
                (*place, "type"),
                f'unknown source type "{kind}"{_nearest(kind, known)}. Known types: {", ".join(known)}',
            )
        else:
            try:
                model = source_class(kind).Config
            except SourceError as error:
                self._add((*place, "type"), str(error))
        if model is None:
            # What every connection has can be checked all the same.
            common = {key: value for key, value in entry.items() if key in SourceConfig.model_fields}
            self._validate(SourceConfig, {**common, "type": str(kind)}, place)
            return None
        return self._validate(model, entry, place, {"connection": entry.get("name", "")})

    def _check_names(self, entries: Sequence[Any]) -> None:
        first: dict[str, int] = {}
        for i, entry in enumerate(entries):
            name = entry.get("name") if isinstance(entry, dict) else None
            if not isinstance(name, str):
                continue
            place = ("sources", i, "name")
            if name in first:
                line = self._document.line(("sources", first[name], "name"))
                self._add(place, f'the name "{name}" is taken by the connection on line {line}: expected another one')
            elif name == INBOX and entry.get("type") != "upload":
                self._add(place, f'the name "{INBOX}" belongs to an upload connection: expected another one')
            first.setdefault(name, i)

    def _validate(
        self, model: type[_Model], data: dict[str, Any], place: Location, context: dict[str, str] | None = None
    ) -> _Model | None:
        # JSON, so that types can be strict (no "yes" for true, no true for 1) while a list may become a tuple and
        # text a path or an enum.
        try:
            return model.model_validate_json(json.dumps(data), strict=True, context=context, by_alias=True, by_name=False)
        except ValidationError as errors:
            for error in errors.errors(include_url=False):
                self._add_error(error, model, place)
        except Exception as error:  # noqa: BLE001 - a connector's own checks are foreign code
            self._add(place, f"the settings can't be checked: {error.__class__.__name__} in the connector")
        return None

    def _add(self, place: Location, message: str, missing: str = "") -> None:
        key = key_path((*place, missing) if missing else place)
        self.problems.append(Problem(message, self._document.line(place), key))

    def _add_error(self, error: ErrorDetails, model: type[BaseModel], above: Location) -> None:
        place = above
        for part in error["loc"]:
            # Parts that are not in the file are pydantic's own: the member of a union, "[key]".
            if (*place, part) in self._document.lines:
                place = (*place, part)
        kind = error["type"]
        if any(problem.key == key_path(place) for problem in self.problems if kind != "missing"):
            return  # one problem per place is enough: YAML's own, or the first member of a union
        if kind == "missing":
            name = str(error["loc"][-1])
            self._add(place, f"missing; expected: {_describe(model, error['loc'])}", missing=name)
        elif kind == "extra_forbidden":
            self._add(place, _unknown(str(error["loc"][-1]), _known_keys(model, error["loc"][:-1]), place))
        else:
            self._add(place, _message(error, model, place))


def _unknown(key: str, known: Sequence[str], place: Location) -> str:
    if len(place) == 1 and key in _LATER:
        return "not available in this version: remove it"
    listed = ", ".join(known)
    return f"unknown key{_nearest(key, known)}. Known keys: {listed}"


def _nearest(word: str, known: Sequence[str]) -> str:
    lower = {name.lower(): name for name in known}
    longer = [name for name in lower if word and name.startswith(word.lower())]
    close = longer or difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    return f', nearest: "{lower[close[0]]}"' if close else ""


def _message(error: ErrorDetails, model: type[BaseModel], place: Location) -> str:
    kind, context, secret = error["type"], error.get("ctx", {}), looks_secret(key_path(place))
    if kind == "secret_literal":
        return error["msg"]
    if kind in ("value_error", "assertion_error"):
        # A connector's own check may quote the value.
        return "not valid" if secret else str(context.get("error", error["msg"]))
    if kind in ("literal_error", "enum"):
        expected = f"expected {context['expected']}".replace("'", '"')
    elif kind == "string_pattern_mismatch" and len(place) == 3 and place[2] == "name":
        expected = 'expected lower-case letters, digits, "-" and "_" (at most 63, a letter or digit first)'
    elif kind == "string_pattern_mismatch":
        expected = f"expected: {_describe(model, error['loc'])}"
    else:
        expected = _EXPECTED.get(kind) or error["msg"].replace("Input should be", "expected")
        expected = expected.replace("greater than or equal to", "at least")
    shown = "" if secret else _show(error["input"])
    if kind == "string_type" and shown:
        shown += ": put it in quotes"
    if kind in ("literal_error", "enum") and isinstance(error["input"], str) and not secret:
        shown += _nearest(error["input"], re.findall("'([^']*)'", str(context["expected"])))
    return expected + shown


def _show(value: Any) -> str:
    if value is None:
        return ", got nothing"
    if isinstance(value, list | tuple):
        return ", got a list"
    if isinstance(value, Mapping):
        return ", got a mapping"
    text = json.dumps(value, ensure_ascii=False)
    return f", got {text}" if len(text) <= _LONGEST_VALUE else f", got {text[:_LONGEST_VALUE]}…"


def _describe(model: type[BaseModel], location: Sequence[int | str]) -> str:
    for section in _sections(model, location[:-1]):
        for name, field in section.model_fields.items():
            if location and location[-1] in (field.alias or name, name) and field.description:
                text = field.description.rstrip(".")
                return text[0].lower() + text[1:]
    return "a value"


def _known_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    return sorted({f.alias or name for section in _sections(model, location) for name, f in section.model_fields.items()})


def _sections(model: type[BaseModel], location: Sequence[int | str]) -> list[type[BaseModel]]:
    """The models that may describe what stands at a location; several below a union."""
    here = [model]
    for part in location:
        named = [section for section in here if section.__name__ == part]
        fields = [f for section in here for name, f in section.model_fields.items() if part in (f.alias or name, name)]
        below = [found for field in fields for found in _models(field.annotation)]
        here = named or below or here
    return here


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
