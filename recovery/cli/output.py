"""Data goes to stdout, everything else to stderr: tables on a terminal, tabs or JSON elsewhere."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any
from uuid import UUID

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.redaction import redact, redact_dict

ID_DIGITS = 8

_COMMANDS = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")
"""What a terminal obeys, but for the end of a line, a tab and a colour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where one command's answer goes, and in which form."""

    as_json: bool = False

    def record(self, values: Mapping[str, Any], text: str) -> None:
        """Write one object: as JSON on one line, or as `text`."""
        click.echo(to_json_line(values) if self.as_json else _harmless(redact(text)))

    def rows(self, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a list: a JSON object per line with every value, or the `names` as columns."""
        if self.as_json:
            for row in rows:
                click.echo(to_json_line(row))
        elif sys.stdout.isatty():
            Console(highlight=False).print(_table(names, rows))
        else:
            click.echo("\t".join(names))
            for row in rows:
                click.echo("\t".join(_cell(row[name]) for name in names))

    def coloured(self, text: str, colour: str | None) -> str:
        """Return `text` in a colour where one is wanted: on a terminal, without NO_COLOR."""
        if colour is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
            return text
        return click.style(text, fg=colour)

    def note(self, text: str) -> None:
        """Tell a person something that is not part of the answer."""
        click.echo(_harmless(redact(text)), err=True)


def to_json_line(values: Mapping[str, Any]) -> str:
    """Return one line of JSON; instants in ISO 8601 and UTC, durations in seconds."""
    return json.dumps(redact_dict(values), default=_plain, ensure_ascii=False)


def instant(moment: datetime) -> str:
    """Return a moment as ``2026-11-24T09:00:00.000Z``."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def counted(number: int, noun: str) -> str:
    """Return ``1 check`` or ``2 checks``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def age(since: timedelta) -> str:
    """Return a duration in its largest unit, for a column."""
    seconds = max(0, int(since.total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return instant(value)
        case timedelta():
            return value.total_seconds()
        case Enum():
            return value.value
        case UUID():
            return str(value)
        case _:
            return list(value)


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case datetime():
            return instant(value)
        case _:
            return _visible(redact(" ".join(str(value).split())))


def _visible(text: str) -> str:
    """Without what a terminal would obey: a gateway's words may stand in a cell."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def _harmless(text: str) -> str:
    """Like `_visible`, for a page: lines and colours stay, for they are its own."""
    return _COMMANDS.sub("\N{REPLACEMENT CHARACTER}", text)


def _table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    """Columns without any value are left out, and ids cut to a prefix that `show` takes."""
    shown = [name for name in names if not rows or any(row[name] is not None for row in rows)]
    table = Table(*[name.replace("_", " ") for name in shown], box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*[Text(_short(row[name])) for name in shown])
    return table


def _short(value: Any) -> str:
    return str(value)[:ID_DIGITS] if isinstance(value, UUID) else _cell(value)
