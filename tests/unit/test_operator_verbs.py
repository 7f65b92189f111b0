"""What each operator verb writes, and what it refuses: from plain values."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.context import Movement
from orchestrator.entries import (
    Direction,
    OperatorActed,
    SagaResolved,
    StepSettled,
    StepSkipped,
)
from orchestrator.errors import PayloadError
from orchestrator.money_at_risk import money_at_risk
from orchestrator.state import State
from recovery.operator.deciding import NOT_NEEDED, decided
from recovery.operator.refusals import RefusedError
from recovery.operator.verbs import (
    Abandon,
    MarkDone,
    MarkNotDone,
    Probe,
    Resolve,
    Retry,
    Skip,
    Verb,
)
from tests.histories import COMPENSATE, PROBE, History, doing, nothing, saga
from tests.operators import (
    ADA,
    EARNED,
    PAY,
    RESERVE,
    SHIP,
    SHOP,
    after,
    case_of,
    kinds,
    of_an_undo,
    of_an_unknown,
    past_the_pivot,
    plan,
    unanswered,
)

# -- retry -----------------------------------------------------------------------------------------


def test_retry_lets_a_parked_saga_go_on_with_budgets_that_begin_anew() -> None:
    history = of_an_unknown()
    assert kinds(plan(history, Retry())) == ["OperatorActed", "SagaUnparked"]
    after(history, Retry())
    assert history.wants == ["pay#4"]
    for _ in range(2):
        history.unknown("pay")
    assert history.wants == ["pay#6"]


def test_retry_of_an_undo_tries_it_again() -> None:
    assert after(of_an_undo(), Retry()).wants == ["undo pay#2"]


def test_retry_past_the_pivot_tries_again_and_takes_nothing_back() -> None:
    assert after(past_the_pivot(), Retry()).wants == ["mail#2"]


def test_a_retry_that_would_park_again_at_once_is_refused_with_the_question() -> None:
    definition = saga(RESERVE, doing("pay", key_life=timedelta(0)), SHIP)
    history = History(definition).succeeds("reserve").unknown("pay").later(hours=1)
    with pytest.raises(RefusedError, match="key is too old"):
        plan(history, Retry())


def test_retry_of_a_saga_in_back_off_names_the_attempts_that_it_hurries() -> None:
    history = History(SHOP).fails("reserve")
    found = plan(history, Retry())
    assert found.hurries
    assert found.entries == (
        OperatorActed(
            verb="retry", actor="ada", reason="called the bank", data=["forward reserve #2"]
        ),
    )


def test_there_is_nothing_to_hurry_while_an_attempt_runs() -> None:
    with pytest.raises(RefusedError, match="reserve runs now"):
        plan(History(SHOP).claims("reserve"), Retry())


def test_there_is_nothing_to_hurry_when_the_attempt_only_lacks_a_worker() -> None:
    with pytest.raises(RefusedError, match="amends doctor"):
        plan(History(SHOP), Retry())


def test_a_saga_that_waits_for_a_signal_cannot_be_hurried() -> None:
    with pytest.raises(RefusedError, match="waits for something outside"):
        plan(History(SHOP).waits("reserve", "answer", hours=1), Retry())


# -- probe -----------------------------------------------------------------------------------------


def test_probe_has_the_other_side_asked_and_repeats_nothing() -> None:
    history = after(unanswered(), Probe(step="pay"))
    assert history.wants == ["probe pay#11"]
    assert history.probed("pay", landed=True, reference="pay-1").wants == ["ship#1"]


def test_probe_asks_even_where_the_key_could_be_used_again() -> None:
    """An operator who wants an answer does not want the call to be made once more."""
    definition = saga(RESERVE, doing("pay", probe=nothing), SHIP)
    history = History(definition).succeeds("reserve")
    for _ in range(3):
        history.unknown("pay")
    for _ in range(10):
        history.fails("pay", PROBE)
    assert after(history.later(hours=1), Probe(step="pay")).wants == ["probe pay#11"]


def test_probe_needs_a_probe() -> None:
    with pytest.raises(RefusedError, match="has no probe"):
        plan(of_an_unknown(), Probe(step="pay"))


def test_probe_asks_nothing_that_is_known() -> None:
    history = History(saga(doing("pay", probe=nothing), SHIP)).succeeds("pay")
    with pytest.raises(RefusedError, match="it is known what became of pay"):
        plan(history, Probe(step="pay"))


# -- mark-done -------------------------------------------------------------------------------------


def test_mark_done_settles_the_step_with_what_the_operator_saw() -> None:
    history = of_an_unknown()
    verb = MarkDone(
        step="pay",
        reference="pay-1",
        result={"id": "pay-1"},
        movements=[Movement(kind="capture", amount_minor=1990, currency="EUR")],
    )
    assert plan(history, verb).entries[1] == StepSettled(
        step="pay",
        direction=Direction.FORWARD,
        landed=True,
        by="ada",
        attempt=3,
        reference="pay-1",
        result={"id": "pay-1"},
        movements=EARNED,
    )
    assert after(history, verb).wants == ["ship#1"]
    assert money_at_risk(history.log)["EUR"].captured_minor == 1990


def test_mark_done_of_a_step_needs_its_reference() -> None:
    with pytest.raises(PayloadError, match="reference"):
        plan(of_an_unknown(), MarkDone(step="pay", reference=" "))


def test_mark_done_past_the_pivot_completes_what_was_done_by_hand() -> None:
    history = after(past_the_pivot(), MarkDone(step="mail", reference="by hand"))
    assert history.visible is State.COMPLETED


def test_mark_done_in_a_saga_that_is_taken_back_means_that_it_is_undone() -> None:
    history = after(of_an_undo(), MarkDone(step="pay", reference="transfer-9"))
    assert history.visible is State.COMPENSATED
    assert money_at_risk(history.log) == {}


def test_what_the_undo_would_have_spared_is_spared_when_it_was_done_by_hand() -> None:
    """A void is refused while the money is taken, and needless once that is given back."""
    definition = saga(doing("hold", undone_by="take"), doing("take"), SHIP)
    history = History(definition).succeeds("hold", reference="p").succeeds("take", reference="p")
    history.declined("ship").declined("take", COMPENSATE).declined("hold", COMPENSATE)
    assert history.state.parked is not None
    assert history.state.parked.steps == ["take", "hold"]
    after(history.later(hours=1), MarkDone(step="take", reference="transfer-9"))
    assert history.visible is State.COMPENSATED
    assert "UndoSkipped" in history.kinds


def test_mark_done_of_an_undo_gives_back_exactly_what_the_step_had_taken() -> None:
    settled = plan(of_an_undo(), MarkDone(step="pay", reference="transfer-9")).entries[1]
    assert isinstance(settled, StepSettled)
    assert settled.movements == [
        {"kind": "refund", "amount_minor": 1990, "currency": "EUR", "reference": "transfer-9"}
    ]


def test_the_money_of_an_undo_is_not_for_the_operator_to_say() -> None:
    verb = MarkDone(step="pay", movements=[Movement(kind="refund", amount_minor=1, currency="EUR")])
    with pytest.raises(PayloadError, match="told from what it undoes"):
        plan(of_an_undo(), verb)


def test_of_several_outstanding_undos_the_others_stay_outstanding() -> None:
    definition = saga(doing("a"), doing("b", after=()), doing("c", after=("a", "b")))
    history = History(definition).succeeds("a", "b").declined("c").finds_nothing("c")
    history.declined("a", COMPENSATE).declined("b", COMPENSATE).later(hours=1)
    after(history, MarkDone(step="a", reference="by hand"))
    assert history.visible is State.FAILED_COMPENSATION
    assert history.state.parked is not None
    assert history.state.parked.steps == ["b"]


def test_mark_done_of_a_saga_in_back_off_withdraws_the_repetition() -> None:
    history = History(SHOP).succeeds("reserve").unknown("pay").later(hours=1)
    assert after(history, MarkDone(step="pay", reference="pay-1")).wants == ["ship#1"]


# -- mark-not-done ---------------------------------------------------------------------------------


def test_mark_not_done_tries_again_under_a_new_key() -> None:
    history = after(of_an_unknown(), MarkNotDone(step="pay"))
    assert history.wants == ["pay#4"]
    assert history.state.step("pay").generation == 2


def test_mark_not_done_of_an_undo_undoes_under_a_new_key() -> None:
    history = after(of_an_undo(), MarkNotDone(step="pay"))
    assert history.wants == ["undo pay#2"]
    assert history.state.step("pay").undo_generation == 2


def test_mark_not_done_of_what_was_never_tried_is_refused() -> None:
    with pytest.raises(RefusedError, match="ship never ran"):
        plan(of_an_unknown(), MarkNotDone(step="ship"))


def test_mark_not_done_of_a_try_that_failed_is_refused_while_it_is_tried_again() -> None:
    history = History(SHOP).fails("reserve").later(hours=1)
    with pytest.raises(RefusedError, match="tried again by itself"):
        plan(history, MarkNotDone(step="reserve"))


def test_a_poisoned_step_that_did_not_happen_is_tried_again() -> None:
    history = History(SHOP)
    for _ in range(3):
        history.crashes("reserve")
    assert history.state.parked is not None
    assert history.state.parked.reason == "poison"
    assert after(history.later(hours=1), MarkNotDone(step="reserve")).wants == ["reserve#4"]


# -- take back -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "wants"),
    [
        (MarkNotDone(step="pay", take_back=True), ["undo pay#1"]),
        (MarkDone(step="pay", reference="pay-1", take_back=True), ["undo pay#1"]),
        (Retry(take_back=True), ["pay#4"]),
    ],
)
def test_an_answer_may_have_the_saga_taken_back(verb: Verb, wants: list[str]) -> None:
    history = after(of_an_unknown(), verb)
    assert history.wants == wants
    assert "ship#1" not in history.wants


def test_a_retry_that_takes_back_settles_first_and_then_undoes() -> None:
    history = after(of_an_unknown(), Retry(take_back=True)).succeeds("pay", reference="pay-1")
    assert history.wants == ["undo pay#1"]


def test_past_the_pivot_nothing_can_be_taken_back() -> None:
    with pytest.raises(RefusedError, match="point of no return"):
        plan(past_the_pivot(), Retry(take_back=True))


def test_what_is_being_taken_back_cannot_be_taken_back_again() -> None:
    with pytest.raises(RefusedError, match="can be taken back"):
        plan(of_an_undo(), MarkNotDone(step="pay", take_back=True))


# -- skip ------------------------------------------------------------------------------------------


def test_a_skipped_step_counts_as_done() -> None:
    assert after(past_the_pivot(), Skip(step="mail")).visible is State.COMPLETED


def test_a_skipped_undo_counts_as_done() -> None:
    history = History(saga(doing("reserve"), PAY)).succeeds("reserve").declined("pay")
    history.finds_nothing("pay").declined("reserve", COMPENSATE).later(hours=1)
    found = plan(history, Skip(step="reserve"))
    assert found.entries[1] == StepSkipped(step="reserve", direction=COMPENSATE, by="ada")
    assert after(history, Skip(step="reserve")).visible is State.COMPENSATED


def test_the_undo_of_what_moved_money_cannot_be_skipped() -> None:
    with pytest.raises(RefusedError, match=r"1990 EUR"):
        plan(of_an_undo(), Skip(step="pay"))


# -- resolve and abandon ---------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [Resolve(), Abandon()])
def test_closing_a_parked_saga_says_who_and_why(verb: Verb) -> None:
    found = plan(of_an_undo(), verb)
    assert found.entries == (
        OperatorActed(verb=verb.name, actor="ada", reason="called the bank"),
        SagaResolved(actor="ada", reason="called the bank"),
    )


def test_only_a_parked_saga_is_resolved_and_any_that_rests_is_abandoned() -> None:
    history = History(SHOP).fails("reserve")
    with pytest.raises(RefusedError, match="not parked"):
        plan(history, Resolve())
    assert "SagaResolved" in kinds(plan(history, Abandon()))
    with pytest.raises(RefusedError, match="reserve runs now"):
        plan(history.claims("reserve"), Abandon())


@pytest.mark.parametrize("verb", [Resolve(), Abandon()])
def test_a_saga_whose_definition_is_gone_can_be_closed(verb: Verb) -> None:
    found = decided(case_of(of_an_undo(), known=False), verb, ADA, evidence=NOT_NEEDED)
    assert isinstance(found.entries[-1], SagaResolved)
