"""The table of the scenarios: no cell is green by itself, and every form says what was seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from recovery.demo import show
from recovery.demo.narrator import JsonNarrator
from recovery.demo.scenarios.playing import Scenario, played
from recovery.demo.scenarios.table import (
    Expectation,
    Row,
    failures,
    in_ledger,
    in_logs,
    in_saga_log,
    in_stock,
    written,
)
from recovery.demo.stage import DemoError

GREEN = [
    each("as it should be", seen=1, expected=1)
    for each in (in_saga_log, in_ledger, in_stock, in_logs)
]


def test_a_place_that_nobody_looked_at_is_no_pass() -> None:
    row = Row(number=1, title="one", expectations=GREEN[:3])

    assert not row.holds
    assert list(failures([row])) == ["scenario 1, log output: nothing was checked"]
    assert "✗ nothing was checked" in written([row])
    assert row.as_json()["cells"]["log output"] == {"ok": False, "expectations": []}


def test_text_and_json_say_what_was_seen_instead() -> None:
    row = Row(
        number=1, title="one", expectations=[*GREEN, in_ledger("one charge", seen=2, expected=1)]
    )

    assert "✗ one charge: seen 2, expected 1" in written([row], width=400)
    assert list(failures([row])) == ["scenario 1, gateway ledger: one charge: seen 2, expected 1"]
    assert row.as_json()["ok"] is False
    assert row.as_json()["cells"]["gateway ledger"]["expectations"][1] == {
        "says": "one charge",
        "ok": False,
        "seen": 2,
        "expected": 1,
    }


@pytest.mark.parametrize("error", [DemoError("it hangs"), KeyError("on_hand")])
def test_a_scenario_that_cannot_be_played_is_red_and_the_others_are_played(
    error: Exception,
) -> None:
    def breaks(_: Any) -> list[Expectation]:
        raise error

    scenarios: list[Callable[[Any], Sequence[Expectation]]] = [breaks, lambda _: GREEN]
    stage: Any = None
    rows = played(stage, [Scenario(title="one", play=each) for each in scenarios])

    assert [each.holds for each in rows] == [False, True]


@pytest.mark.parametrize("reds", [0, 1])
def test_a_red_row_is_told_and_the_show_does_not_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], reds: int
) -> None:
    wrong = [in_stock("none put aside", seen=1, expected=0)] * reds
    row = Row(number=1, title="one", expectations=[*GREEN, *wrong])
    monkeypatch.setattr(show, "played", lambda _: [row])
    verdicts: Any = show._Verdicts(JsonNarrator())
    stage: Any = None

    assert show._scenarios(stage, verdicts) == [row]
    assert verdicts.all_hold == (reds == 0)
    assert ("none put aside: seen 1, expected 0" in capsys.readouterr().out) == (reds == 1)
