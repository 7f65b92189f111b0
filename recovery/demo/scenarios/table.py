"""The table of the scenarios: what each must leave in log, ledger, stock and logs, and what it did.

Every cell is made of expectations, and each is a comparison: what was seen with what was promised.
The same ones are drawn on a terminal, written as plain text and given as JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text


class Place(StrEnum):
    """Where an expectation was looked up; the columns of the table."""

    SAGA_LOG = "saga log"
    GATEWAY = "gateway ledger"
    STOCK = "stock"
    LOGS = "log output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """One promise and what was seen of it.

    Attributes:
        says: the promise, as the table says it when it holds.
        seen, expected: plain values, compared by ``==``.
    """

    place: Place
    says: str
    seen: Any
    expected: Any

    @property
    def holds(self) -> bool:
        return bool(self.seen == self.expected)

    def __str__(self) -> str:
        if self.holds:
            return self.says
        return f"{self.says}: seen {self.seen!r}, expected {self.expected!r}"


def in_saga_log(says: str, *, seen: Any, expected: Any) -> Expectation:
    """Return an expectation of the saga log."""
    return Expectation(place=Place.SAGA_LOG, says=says, seen=seen, expected=expected)


def in_ledger(says: str, *, seen: Any, expected: Any) -> Expectation:
    """Return an expectation of the gateway's ledger."""
    return Expectation(place=Place.GATEWAY, says=says, seen=seen, expected=expected)


def in_stock(says: str, *, seen: Any, expected: Any) -> Expectation:
    """Return an expectation of the stock."""
    return Expectation(place=Place.STOCK, says=says, seen=seen, expected=expected)


def in_logs(says: str, *, seen: Any, expected: Any) -> Expectation:
    """Return an expectation of what the processes wrote."""
    return Expectation(place=Place.LOGS, says=says, seen=seen, expected=expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One scenario and its expectations."""

    number: int
    title: str
    expectations: Sequence[Expectation]

    @property
    def holds(self) -> bool:
        """Every place was looked at, and every expectation holds: an empty cell is no pass."""
        return all(map(self.cell_holds, Place))

    def cell(self, place: Place) -> list[Expectation]:
        return [each for each in self.expectations if each.place is place]

    def cell_holds(self, place: Place) -> bool:
        expectations = self.cell(place)
        return bool(expectations) and all(each.holds for each in expectations)

    def as_json(self) -> dict[str, Any]:
        """Return title, verdict, and per place its expectations with what was seen and expected."""
        return {
            "scenario": self.number,
            "title": self.title,
            "ok": self.holds,
            "cells": {
                place.value: {
                    "ok": self.cell_holds(place),
                    "expectations": [
                        {
                            "says": each.says,
                            "ok": each.holds,
                            "seen": each.seen,
                            "expected": each.expected,
                        }
                        for each in self.cell(place)
                    ],
                }
                for place in Place
            },
        }


def drawn(rows: Sequence[Row]) -> RichTable:
    """Return the table for a terminal."""
    table = RichTable(box=box.ROUNDED, show_lines=True, expand=True)
    table.add_column("scenario", ratio=3, style="bold", overflow="fold")
    for place, ratio in zip(Place, (6, 5, 4, 5), strict=True):
        table.add_column(place.value, ratio=ratio, overflow="fold")
    for row in rows:
        table.add_row(f"{row.number} {row.title}", *[_drawn_cell(row, each) for each in Place])
    return table


def written(rows: Sequence[Row], width: int = 132) -> str:
    """Return the same as plain text, at most `width` characters wide."""
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(drawn(rows))
    return captured.get()


def failures(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for every expectation that does not hold and for every place not looked at."""
    for row in rows:
        for place in Place:
            expectations = row.cell(place)
            if not expectations:
                yield f"scenario {row.number}, {place}: nothing was checked"
            for each in expectations:
                if not each.holds:
                    yield f"scenario {row.number}, {place}: {each}"


def _drawn_cell(row: Row, place: Place) -> Group | Text:
    expectations = row.cell(place)
    if not expectations:
        return Text("✗ nothing was checked", style="bold red")
    return Group(*[_drawn_line(each) for each in expectations])


def _drawn_line(expectation: Expectation) -> Text:
    mark, style = ("✓", "green") if expectation.holds else ("✗", "bold red")
    return Text.assemble(
        (f"{mark} ", style), (str(expectation), "" if expectation.holds else style)
    )
