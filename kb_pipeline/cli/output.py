"""How the command line speaks: JSON on stdout when asked, sentences on stderr, tables for people."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Control characters, ends of lines and paragraphs, changes of direction, halves of characters.
_MOVES = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def say(message: str) -> None:
    """A line for the person at the terminal: on stderr, so that stdout stays the report."""
    click.echo(message, err=True)


def show_json(value: Any) -> None:
    """The one JSON document of a command."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def show_json_line(value: Any) -> None:
    """One JSON document of many, each in a line of its own; seen at once."""
    click.echo(json.dumps(value, ensure_ascii=False))
    sys.stdout.flush()


def printable(text: str) -> str:
    """The text with escapes for what would move the cursor, or colour the terminal: names come from outside."""
    return _MOVES.sub(lambda match: repr(match[0])[1:-1], text)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, total: bool = False) -> None:
    """A table on stdout; numbers to the right. ``total`` sets the last row apart."""
    rows = list(rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for position, name in enumerate(columns):
        numeric = all(isinstance(row[position], int) for row in rows) and bool(rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for number, row in enumerate(rows):
        if total and number == len(rows) - 1:
            table.add_section()
        table.add_row(*(Text("" if value is None else printable(str(value))) for value in row))
    # Piped output is for programs and files: it must not be folded to a terminal's width.
    width = None if sys.stdout.isatty() else 200
    Console(file=sys.stdout, width=width, highlight=False).print(table)
