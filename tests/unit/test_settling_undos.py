"""Given an undo of unknown outcome, expect a replay, a probe, a new key, or a question."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from orchestrator.definition import SagaDefinition
from orchestrator.entries import StepFailed, StepUnknown, UnknownReason
from orchestrator.errors import DefinitionError, OutcomeUnknown
from orchestrator.keys import key_of
from orchestrator.outcomes import given_up, late, raised
from orchestrator.state import State
from tests.histories import COMPENSATE, PROBE_UNDO, History, doing, nothing, saga

TIMEOUT, LAG = timedelta(seconds=30), timedelta(seconds=10)


def paying(**options: Any) -> SagaDefinition[Any]:
    step = doing("pay", timeout=TIMEOUT, **{"undo_probe": nothing, "lag": LAG, **options})
    return saga(step, doing("ship", pivot=True))


def refunding(**options: Any) -> History:
    """A saga that is to give back pay-1."""
    return History(paying(**options)).succeeds("pay", reference="pay-1").declined("ship")


def undo_key(history: History) -> str:
    return key_of(history.state, "shop", "k", "pay", COMPENSATE)


def kept(history: History) -> History:
    """The other side keeps its failure for the undo's key, and nothing was done."""
    return history.unknown("pay", COMPENSATE).unknown("pay", COMPENSATE, is_kept=True)


def test_an_undo_of_unknown_outcome_is_repeated_under_its_key_first() -> None:
    assert refunding().unknown("pay", COMPENSATE).wants == ["undo pay#2"]


def test_an_undo_whose_answer_is_kept_is_asked_about_at_once() -> None:
    assert kept(refunding()).wants == ["probe undo pay#1"]


def test_an_undo_without_a_probe_is_repeated_until_its_budget_is_spent() -> None:
    history = kept(refunding(undo_probe=None))
    assert history.wants == ["undo pay#3"]
    assert history.unknown("pay", COMPENSATE, is_kept=True).visible is State.FAILED_COMPENSATION


@pytest.mark.parametrize("options", [{}, {"key_life": timedelta(0)}], ids=["budget", "key"])
def test_an_undo_that_may_not_be_repeated_is_asked_about(options: dict[str, Any]) -> None:
    history = refunding(**options)
    while history.wants[0].startswith("undo"):
        history.unknown("pay", COMPENSATE)
    assert history.wants == ["probe undo pay#1"]


def test_an_undo_that_is_found_is_done_under_the_name_that_was_found() -> None:
    history = kept(refunding()).probed("pay", PROBE_UNDO, landed=True, reference="refund-1")
    assert history.visible is State.COMPENSATED
    [effect] = history.state.step("pay").effects
    assert (effect.covered, effect.undo_reference) == (True, "refund-1")


def test_an_undo_that_was_denied_twice_late_enough_has_a_new_key() -> None:
    history = kept(refunding())
    before = undo_key(history)
    history.later(seconds=41).probed("pay", PROBE_UNDO, landed=False)
    assert history.wants == ["probe undo pay#2"]
    history.probed("pay", PROBE_UNDO, landed=False)
    assert history.wants == ["undo pay#3"]
    assert undo_key(history) != before
    assert history.undoes("pay").visible is State.COMPENSATED


def test_a_denial_that_came_too_early_is_not_believed() -> None:
    history = kept(refunding()).later(seconds=39)
    for _ in range(3):
        history.probed("pay", PROBE_UNDO, landed=False)
    assert "StepSettled" in history.kinds
    history = kept(refunding())
    history.probed("pay", PROBE_UNDO, landed=False)
    due, began = history.run("pay", PROBE_UNDO).not_before, history.state.step("pay").undo
    assert due is not None
    assert began.started_at is not None
    assert due - began.started_at >= TIMEOUT + LAG


def test_a_new_attempt_makes_denials_worthless() -> None:
    history = refunding()
    while history.wants[0].startswith("undo"):
        history.unknown("pay", COMPENSATE)
    history.later(seconds=41).probed("pay", PROBE_UNDO, landed=False)
    while history.visible is State.COMPENSATING:
        history.probed("pay", PROBE_UNDO, landed=None)
    history.unparked("pay").claims("pay", COMPENSATE)
    assert history.state.step("pay").undo_denials == ()


def test_an_undo_that_nobody_can_tell_of_is_left_over() -> None:
    history = kept(refunding())
    while history.visible is State.COMPENSATING:
        history.probed("pay", PROBE_UNDO, landed=None)
    assert history.state.parked is not None
    assert history.state.parked.steps == ["pay"]


def test_a_side_that_keeps_a_failure_for_every_key_ends_in_front_of_a_person() -> None:
    history, keys = refunding(), set()
    for _ in range(20):
        if history.visible is not State.COMPENSATING:
            break
        keys.add(undo_key(history))
        kept(history).later(seconds=41)
        history.probed("pay", PROBE_UNDO, landed=False).probed("pay", PROBE_UNDO, landed=False)
    assert history.visible is State.FAILED_COMPENSATION
    assert len(keys) == 3


def test_a_retry_of_what_is_kept_asks_anew_instead_of_repeating_it() -> None:
    history = kept(refunding())
    while history.visible is State.COMPENSATING:
        history.probed("pay", PROBE_UNDO, landed=None)
    assert history.unparked("pay").wants[0].startswith("probe undo pay#")


def test_asking_keeps_what_comes_earlier_waiting() -> None:
    steps = [doing("hold"), *paying().steps]
    history = History(saga(*steps)).succeeds("hold", "pay").declined("ship")
    assert kept(history).wants == ["probe undo pay#1"]
    history.claims("pay", PROBE_UNDO)
    assert history.wants == []


def test_an_effect_that_comes_after_the_undo_began_is_undone_too() -> None:
    history = kept(refunding()).late("pay", 1, "pay-2")
    history.probed("pay", PROBE_UNDO, landed=True, reference="refund-1")
    assert history.wants[0].startswith("undo pay#")
    effect = history.state.effect_to_undo("pay")
    assert effect is not None
    assert effect.reference == "pay-2"


def test_a_step_whose_answer_is_kept_is_asked_about_at_once_too() -> None:
    history = History(saga(doing("pay", probe=nothing), doing("ship", pivot=True)))
    assert history.unknown("pay").wants == ["pay#2"]
    assert history.unknown("pay", is_kept=True).wants == ["probe pay#1"]


def test_an_outcome_says_that_the_other_side_keeps_it() -> None:
    entry = raised(doing("pay"), COMPENSATE, 1, OutcomeUnknown("a stored 500", is_kept=True))
    assert isinstance(entry, StepUnknown)
    assert entry.is_kept


def test_a_probe_of_an_undo_leaves_nothing_behind_however_it_ends() -> None:
    step = paying().step("pay")
    assert isinstance(raised(step, PROBE_UNDO, 1, OutcomeUnknown("?")), StepFailed)
    lost = given_up(step, PROBE_UNDO, 1, UnknownReason.CRASHED)
    assert isinstance(lost, StepFailed)
    assert late(lost) is None


@pytest.mark.parametrize(
    "options",
    [{"transactional": True, "compensation": nothing}, {"no_compensation": "none, because …"}],
    ids=["transactional", "no compensation"],
)
def test_a_probe_of_an_undo_that_has_no_unknown_effect_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match="undo_probe"):
        doing("pay", undo_probe=nothing, **options)
