"""Which source types there are, and the classes behind them, found by entry point.

What belongs here: looking up and loading. What doesn't: settings of a type (its class has them), kb.yaml.
"""

from __future__ import annotations

from importlib import metadata
from importlib.metadata import EntryPoint

from kb_pipeline import __version__
from kb_pipeline.sources.base import Source, SourceConfig, SourceContext, SourceError

GROUP = "kb_pipeline.sources"

# Named here too, so that a checkout works without being installed; a test compares them with pyproject.toml.
_BUILT_IN = {
    "local_directory": "kb_pipeline.sources.local_directory:LocalDirectory",
    "local_zip": "kb_pipeline.sources.local_zip:LocalZip",
    "upload": "kb_pipeline.sources.upload:Upload",
}


class UnknownSourceType(SourceError):
    """No connector of this name is installed."""


class ConnectorBroken(SourceError):
    """A connector is installed, but can't be used. The message names the distribution it came with."""


def source_types() -> dict[str, EntryPoint]:
    """Every installed source type, sorted by name. Loads none of them. The built-in ones can't be replaced."""
    found = {name: EntryPoint(name, value, GROUP) for name, value in _BUILT_IN.items()}
    for entry in metadata.entry_points(group=GROUP):
        found.setdefault(entry.name, entry)
    return dict(sorted(found.items()))


def version(entry: EntryPoint) -> str:
    """Distribution and version that a source type comes with."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else f"kb_pipeline {__version__}"


def source_class(name: str) -> type[Source]:
    """Load the class of a source type.

    Raises UnknownSourceType, or ConnectorBroken when it can't be imported or isn't a source.
    """
    types = source_types()
    if name not in types:
        raise UnknownSourceType(f'There is no source type "{name}"; the installed ones are {", ".join(types)}.')
    entry = types[name]
    origin = f'The connector "{name}" (from {_distribution(entry)})'
    try:
        loaded = entry.load()
    except Exception as error:  # a connector is foreign code: importing it may raise anything
        raise ConnectorBroken(f"{origin} can't be imported: {error.__class__.__name__}: {error}") from error
    config = getattr(loaded, "Config", None)
    if not (isinstance(config, type) and issubclass(config, SourceConfig)):
        raise ConnectorBroken(f"{origin} has no settings class: Config must be a subclass of SourceConfig.")
    missing = [verb for verb in ("list", "read", "probe") if not callable(getattr(loaded, verb, None))]
    if missing:
        raise ConnectorBroken(f"{origin} is no source: it has no {', '.join(missing)}.")
    source: type[Source] = loaded
    return source


def build(config: SourceConfig, context: SourceContext) -> Source:
    """A source for one connection. Opens nothing. Raises what ``source_class`` raises."""
    return source_class(config.type)(config, context)


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value
