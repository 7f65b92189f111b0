"""Entries that are no facts: voided by an operator, or written beside the engine."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.books import books
from orchestrator.entries import (
    EntriesVoided,
    Entry,
    Recorded,
    SagaParked,
    SagaStarted,
    SagaUnparked,
    StepStarted,
    StepSucceeded,
    believed,
    decoded,
    encode,
)
from orchestrator.errors import HistoryError
from orchestrator.folding import replay
from orchestrator.money_at_risk import money_at_risk
from orchestrator.state import State
from orchestrator.unsettled import unsettled
from tests.histories import MORNING

STARTED = SagaStarted(payload={})
CLAIMED = StepStarted(step="pay", direction="forward", attempt=1, owner="me")
PAID = StepSucceeded(
    step="pay",
    direction="forward",
    attempt=1,
    reference="p-1",
    movements=[{"kind": "capture", "amount_minor": 10, "currency": "EUR", "reference": "p-1"}],
)
VOIDED = EntriesVoided(seqs=[3], actor="ada", reason="a script")
ASIDE = SagaParked(state="stuck", reason="unreadable", question="?", entries=[3])


def log(*entries: Entry, seqs: list[int] | None = None) -> list[Recorded]:
    return [
        Recorded(seq=seq, at=MORNING, entry=entry)
        for seq, entry in zip(seqs or range(1, len(entries) + 1), entries, strict=True)
    ]


def test_a_fold_passes_over_what_was_voided() -> None:
    state = replay(log(STARTED, CLAIMED, PAID, VOIDED))
    assert state.step("pay").effects == ()
    assert state.step("pay").forward.open_attempt == 1
    assert state.seq == 4


def test_what_is_missing_before_a_voided_entry_is_void_too() -> None:
    state = replay(
        log(
            STARTED,
            CLAIMED,
            PAID,
            EntriesVoided(seqs=[9], actor="a", reason="r"),
            seqs=[1, 2, 9, 10],
        )
    )
    assert state.seq == 10


def test_a_fold_that_had_taken_an_entry_in_cannot_go_on_after_it_was_voided() -> None:
    state = replay(log(STARTED, CLAIMED, PAID))
    with pytest.raises(HistoryError, match="from its start"):
        replay(log(VOIDED, seqs=[4]), state)


@pytest.mark.parametrize("judged", [VOIDED, ASIDE])
def test_money_of_entries_that_are_no_facts_is_not_counted(judged: Entry) -> None:
    entries = log(STARTED, CLAIMED, PAID, judged)
    assert books(log(STARTED, CLAIMED, PAID))["EUR"].captured == 10
    assert not books(entries)
    assert not money_at_risk(entries)
    assert [each.seq for each in believed(entries)] == [1, 2, 4]


def test_what_is_at_risk_is_not_known_while_an_entry_cannot_be_read() -> None:
    damaged = decoded("StepSucceeded", {"nonsense": 1})
    with pytest.raises(HistoryError):
        money_at_risk(log(STARTED, CLAIMED, damaged))
    assert money_at_risk(log(STARTED, CLAIMED, damaged, VOIDED)) == {}
    assert unsettled(log(STARTED, CLAIMED, damaged, VOIDED)) == []


def test_a_saga_is_set_aside_in_any_phase_and_goes_on_where_it_stood() -> None:
    parked = SagaParked(state="stuck", reason="unknown", question="?", steps=["pay"])
    aside = SagaParked(state="stuck", reason="undecidable", question="!")
    state = replay(log(STARTED, parked, aside, SagaUnparked(by="ada")))
    assert (state.phase, state.parked) == (State.RUNNING, None)


def test_nothing_lets_a_saga_go_on_while_forged_entries_are_not_voided() -> None:
    with pytest.raises(HistoryError, match="amends repair"):
        replay(log(STARTED, CLAIMED, PAID, ASIDE, SagaUnparked(by="ada")))


@pytest.mark.parametrize("values", [None, [], {"step": 1}, "x"])
def test_an_entry_that_cannot_be_read_is_kept_as_it_is(values: Any) -> None:
    assert encode(decoded("StepStarted", values)) == ("StepStarted", values)
