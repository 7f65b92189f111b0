"""Plays the scenarios, one after the other, and returns the rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from recovery.demo.scenarios import (
    fraud_block,
    reconciliation,
    redaction,
    refund,
    replayed_start,
    transient_failure,
    webhooks,
)
from recovery.demo.scenarios.table import Expectation, Row, in_saga_log
from recovery.demo.stage import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is to be seen, and the function that plays it and compares."""

    title: str
    play: Callable[[Stage], Sequence[Expectation]]


SCENARIOS: Final = (
    Scenario(title=transient_failure.TITLE, play=transient_failure.play),
    Scenario(title=replayed_start.TITLE, play=replayed_start.play),
    Scenario(title=refund.TITLE, play=refund.play),
    Scenario(title=fraud_block.TITLE, play=fraud_block.play),
    Scenario(title=webhooks.TITLE, play=webhooks.play),
    Scenario(title=reconciliation.TITLE, play=reconciliation.play),
    Scenario(title=redaction.TITLE, play=redaction.play),
)


def played(stage: Stage, scenarios: Sequence[Scenario] = SCENARIOS) -> Iterator[Row]:
    """Yield a row per scenario; one that could not be played to its end has a red one."""
    for number, scenario in enumerate(scenarios, start=1):
        try:
            expectations = scenario.play(stage)
        except Exception as error:  # noqa: BLE001 - the other rows are printed all the same
            seen = f"{type(error).__name__}: {error}"
            expectations = [in_saga_log("it can be played", seen=seen, expected="to its end")]
        yield Row(number=number, title=scenario.title, expectations=expectations)
