"""A refund that is pending for too long: a person has asked, and says what became of it."""

from __future__ import annotations

import pytest

from orchestrator.books import books
from recovery.operator.recommending import recommended
from recovery.operator.refusals import RefusedError
from recovery.operator.verbs import MarkDone, MarkNotDone, Retry
from tests.histories import History
from tests.operators import after, case_of, kinds, plan
from tests.unit.test_closing import paid, refunded


def pending_too_long() -> History:
    history = refunded(paid(), pending=True).later(days=11)
    assert history.visible == "failed_compensation"
    return history


@pytest.mark.parametrize("reference", ["r-1", None])
def test_a_refund_that_arrived_ends_the_saga(reference: str | None) -> None:
    history = pending_too_long()
    verb = MarkDone(step="pay", reference=reference)
    assert kinds(plan(history, verb)) == ["OperatorActed", "MovementSettled", "SagaUnparked"]
    assert after(history, verb).visible == "compensated"
    assert books(history.state.money)["EUR"].pending == 0


def test_it_may_be_said_before_the_saga_parks() -> None:
    history = refunded(paid(), pending=True)
    verb = MarkDone(step="pay", reference="r-1")
    assert kinds(plan(history, verb)) == ["OperatorActed", "MovementSettled"]
    assert after(history, verb).visible == "compensated"


def test_a_refund_that_came_to_nothing_is_made_again_under_a_new_key() -> None:
    history = after(pending_too_long(), MarkNotDone(step="pay"))
    assert history.wants == ["undo pay#2"]
    assert history.state.step("pay").undo_generation == 2
    assert books(history.state.money)["EUR"].refunded == 0


def test_another_reference_settles_nothing() -> None:
    with pytest.raises(RefusedError, match="nothing of pay is left to be undone"):
        plan(pending_too_long(), MarkDone(step="pay", reference="r-2"))


def test_a_refund_that_is_final_already_is_not_denied() -> None:
    history = refunded(paid(), 9)
    assert history.visible == "failed_compensation"
    for verb in (MarkDone(step="pay", reference="r-1"), MarkNotDone(step="pay")):
        with pytest.raises(RefusedError, match="nothing of pay is left to be undone"):
            plan(history, verb)


def test_both_answers_are_advised_and_a_retry_that_parks_again_is_not() -> None:
    advice = [each.command for each in recommended(case_of(pending_too_long()))]
    verbs = [each.split()[1] for each in advice]
    assert verbs == ["mark-done", "mark-not-done", "resolve"]
    assert "--reference r-1" in advice[0]
    with pytest.raises(RefusedError, match="park again"):
        plan(pending_too_long(), Retry())
