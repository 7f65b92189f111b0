"""Every event that the engine tells of has a level, and stands in the operator's table with it."""

import ast
import re
from collections.abc import Iterator
from logging import DEBUG, ERROR, INFO, NOTSET, WARNING
from pathlib import Path

import pytest

from orchestrator.entries import ENTRY_TYPES
from workers.telemetry import _ENTRIES, _EVENTS

ROOT = Path(__file__).parents[2]
PACKAGES = ("orchestrator", "steps", "workers", "recovery")
LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR}
LEVEL_OF_ENTRY = {name: level for level, name in _ENTRIES.values()}
UNSEEN = {
    "saga.entry",  # becomes a line named after the entry
}
OWN_WORDS = {
    "saga.cancel_requested",  # told by the entry; the request itself is debug
}


def emitted() -> Iterator[str]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Call(func=ast.Name(id="emit"), args=[event, *_]):
                        assert isinstance(event, ast.Constant), f"{path}: a name that varies"
                        yield str(event.value)
                    case _:
                        pass


EMITTED = sorted(set(emitted()))


def documented() -> dict[str, int]:
    """Event → level, from the table of docs/operating.md."""
    logs = (
        (ROOT / "docs/operating.md").read_text().partition("\n## Logs\n")[2].partition("\n## ")[0]
    )
    levels: dict[str, int] = {}
    for events, level in re.findall(r"^\| (`.+?`) \| (\w+) \|", logs, re.MULTILINE):
        for event in re.findall(r"`([^`]+)`", events):
            assert event not in levels, f"{event} stands twice in the table"
            levels[event] = LEVELS[level]
    return levels


@pytest.mark.parametrize("event", EMITTED)
def test_an_event_has_a_level_of_its_own(event: str) -> None:
    assert event in _EVENTS


def test_no_level_is_kept_for_an_event_that_nobody_emits() -> None:
    assert set(EMITTED) >= _EVENTS.keys()


def test_the_operators_table_has_every_event_with_its_level() -> None:
    levels = {**_EVENTS, **LEVEL_OF_ENTRY}

    assert documented() == {name: levels[name] for name in levels.keys() - UNSEEN}


def test_an_event_and_an_entry_share_a_name_only_on_purpose() -> None:
    assert _EVENTS.keys() & LEVEL_OF_ENTRY.keys() == OWN_WORDS
    assert _EVENTS["saga.entry"] == NOTSET


def test_every_entry_is_told_or_left_out_on_purpose() -> None:
    silent = {name for name, kind in ENTRY_TYPES.items() if kind not in _ENTRIES}

    assert silent == {"SagaStarted", "UndoSkipped"}  # `saga.started` tells; a spared undo does not
