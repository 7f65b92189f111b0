"""Tells the audience what happens: live on a terminal, in plain lines, or as JSON per line."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, Self

import click
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from recovery.cli.output import to_json_line
from recovery.demo.scenarios.table import Row, drawn, written


class Narrator(AbstractContextManager["Narrator"], Protocol):
    """What the scenes talk to."""

    def scene(self, name: str, title: str) -> None:
        """A new scene begins."""

    def say(self, text: str, *, ok: bool | None = None, **facts: Any) -> None:
        """Something happened; `facts` are for machines, `ok` marks a verdict."""

    def command(self, line: str, **facts: Any) -> None:
        """Something to type; on a line of its own, to be copied."""

    def progress(self, text: str, counts: Mapping[str, int]) -> None:
        """How far a long scene is; may be called often."""

    def table(self, rows: Sequence[Row]) -> None:
        """What the scenarios left behind, and whether it is what was promised."""


class JsonNarrator:
    """One JSON object per line."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._scene = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to close."""

    def scene(self, name: str, title: str) -> None:
        self._scene = name
        self._write("scene", {"text": title})

    def say(self, text: str, *, ok: bool | None = None, **facts: Any) -> None:
        verdict = {} if ok is None else {"ok": ok}
        self._write("said", {"text": text, **verdict, **facts})

    def command(self, line: str, **facts: Any) -> None:
        self._write("command", {"text": line, **facts})

    def progress(self, text: str, counts: Mapping[str, int]) -> None:
        """Nothing: the end of the scene says the numbers."""

    def table(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._write("scenario", row.as_json())

    def _write(self, event: str, values: Mapping[str, Any]) -> None:
        line = {
            "at": datetime.now(UTC),
            "seconds": round(time.monotonic() - self._began, 2),
            "scene": self._scene,
            "event": event,
            **values,
        }
        click.echo(to_json_line(line))
        sys.stdout.flush()


class TextNarrator:
    """Plain lines; on a terminal with colour, and a live line for what is under way."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._console = Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, transient=True, refresh_per_second=10)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.update(Text(""))
            self._live.stop()

    def scene(self, name: str, title: str) -> None:
        self._under_way(title)
        self._console.print()
        self._console.print(Text(f"{name}  {title}", style="bold"))

    def say(self, text: str, *, ok: bool | None = None, **_facts: Any) -> None:
        marks = {None: ("  ", ""), True: ("✓ ", "green"), False: ("✗ ", "bold red")}
        mark, style = marks[ok]
        seconds = Text(f"{time.monotonic() - self._began:6.1f} s  ", style="dim")
        self._console.print(seconds + Text(mark + text, style=style))

    def command(self, line: str, **_facts: Any) -> None:
        self._console.print(Text(line))

    def progress(self, text: str, counts: Mapping[str, int]) -> None:
        told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        self._under_way(f"{text}: {told}")

    def table(self, rows: Sequence[Row]) -> None:
        self._console.print()
        self._console.print(drawn(rows) if self._console.is_terminal else Text(written(rows)))

    def _under_way(self, text: str) -> None:
        if self._live is not None:
            self._live.update(Spinner("dots", text=text))


def narrator(*, as_json: bool) -> Narrator:
    """Return the narrator for this output."""
    return JsonNarrator() if as_json else TextNarrator()
