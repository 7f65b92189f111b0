"""What a wait was told of is kept: looked for by its reference, never denied, always undone."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.entries import LateOutcomeRecorded, StepWaiting
from orchestrator.errors import Wait
from orchestrator.keys import key_of
from orchestrator.outcomes import late, raised
from orchestrator.state import State
from tests.histories import COMPENSATE, FORWARD, MORNING, History, doing, nothing, saga


def waiting(**options: Any) -> History:
    """A saga whose payer was asked to authenticate the payment pay-1."""
    step = doing("pay", **{"probe": nothing, **options})
    history = History(saga(step, doing("ship", pivot=True)))
    return history.waits("pay", "payer", decisive=True, reference="pay-1", hours=1)


def asked_in_vain(history: History) -> History:
    """The payer's answer came, and no look finds the payment: what is left is to ask."""
    history.hears("payer")
    while history.wants[0].startswith("pay#"):
        history.unknown("pay")
    return history


def undoes_what(history: History) -> tuple[str | None, bool]:
    effect = history.state.effect_to_undo("pay")
    return (None, False) if effect is None else (effect.reference, effect.is_open)


def test_a_wait_keeps_its_reference_for_the_attempts_that_follow() -> None:
    history = waiting().hears("payer").crashes("pay")
    assert history.state.step("pay").waits_on == "pay-1"


def test_what_a_wait_was_told_of_is_not_denied_by_any_number_of_probes() -> None:
    history = asked_in_vain(waiting()).later(hours=1)
    while history.visible is State.RUNNING:
        history.probed("pay", landed=False)
    assert history.visible is State.STUCK
    assert "StepSettled" not in history.kinds
    assert history.state.parked is not None
    assert history.state.parked.reason == "unknown"


def test_a_probe_that_finds_what_a_wait_was_told_of_settles_it() -> None:
    history = asked_in_vain(waiting()).probed("pay", landed=True, reference="pay-1")
    assert history.wants == ["ship#1"]
    assert undoes_what(history) == ("pay-1", False)


def test_what_a_wait_was_told_of_is_undone_by_its_reference() -> None:
    history = waiting().cancelled()
    assert history.wants == ["undo pay#1"]
    assert undoes_what(history) == ("pay-1", True)
    history.undoes("pay")
    assert history.visible is State.COMPENSATED


def test_nothing_there_is_no_answer_of_what_a_wait_was_told_of() -> None:
    history = waiting().cancelled()
    for _ in range(3):
        history.finds_nothing("pay")
    assert history.visible is State.FAILED_COMPENSATION


def test_the_undo_has_the_key_of_the_effect_that_it_may_become() -> None:
    history = waiting().cancelled().claims("pay", COMPENSATE)
    begun = key_of(history.state, "shop", "k", "pay", COMPENSATE)
    history.reported("pay", "pay-1")
    assert key_of(history.state, "shop", "k", "pay", COMPENSATE) == begun


@pytest.mark.parametrize("reference", ["pay-1", "another name", None])
def test_a_success_after_the_wait_accounts_for_it(reference: str | None) -> None:
    history = waiting().hears("payer").succeeds("pay", reference=reference)
    assert history.succeeds("ship").visible is State.COMPLETED
    assert history.state.step("pay").begun == ()


def test_a_terminal_end_of_the_wait_leaves_it_to_be_undone() -> None:
    history = waiting().later(hours=2).declined("pay")
    assert history.wants == ["undo pay#1"]
    assert undoes_what(history) == ("pay-1", True)


def test_waiting_ends_with_its_key() -> None:
    """A new key has opened nothing yet: the step has to act under it, not to look for it."""
    history = asked_in_vain(waiting())
    while history.visible is State.RUNNING:
        history.probed("pay", landed=None)
    history.later(hours=1).settles("pay", landed=False).unparked("pay")
    history.claims("pay")
    step = history.state.step("pay")
    assert (step.generation, step.forward.waited, step.signal, step.waits_on) == (
        *(2, False, None, None),
    )


def test_a_step_that_is_settled_while_it_waits_waits_no_more() -> None:
    history = waiting().settles("pay", landed=False)
    assert history.wants == ["pay#2"]


def test_what_an_older_key_began_is_taken_back_beside_a_later_success() -> None:
    history = waiting().settles("pay", landed=False).succeeds("pay", reference="pay-2")
    history.succeeds("ship")
    assert history.visible is State.COMPENSATING
    assert undoes_what(history) == ("pay-1", True)
    assert history.undoes("pay").visible is State.COMPLETED


def test_a_wait_that_came_too_late_tells_of_what_was_begun_all_the_same() -> None:
    history = History(saga(doing("pay", probe=nothing), doing("ship", pivot=True)))
    history.declined("pay").finds_nothing("pay")
    assert history.kinds[-1] == "SagaCompensated"
    history.records(
        LateOutcomeRecorded(
            step="pay", direction=FORWARD, attempt=1, outcome="waiting", reference="pay-1"
        )
    )
    assert history.visible is State.COMPENSATING
    assert undoes_what(history) == ("pay-1", True)


def test_the_late_outcome_of_a_wait_has_its_reference() -> None:
    waits = waiting().log[-1].entry
    kept = late(waits)  # type: ignore[arg-type]
    assert kept is not None
    assert (kept.outcome, kept.reference) == ("waiting", "pay-1")


def test_a_wait_is_logged_with_its_reference() -> None:
    entry = raised(doing("pay"), FORWARD, 1, Wait("payer", MORNING, reference="pay-1"))
    assert isinstance(entry, StepWaiting)
    assert entry.reference == "pay-1"
