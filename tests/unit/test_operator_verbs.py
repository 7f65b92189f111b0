"""What each operator verb writes, and what it refuses: from plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.context import Movement
from orchestrator.entries import (
    Direction,
    OperatorActed,
    SagaResolved,
    SagaUnparked,
    StepSettled,
    StepSkipped,
    StepSucceeded,
)
from orchestrator.errors import PayloadError, UnknownDefinitionError
from orchestrator.money_at_risk import money_at_risk
from orchestrator.state import State
from recovery.operator.deciding import Plan, decided
from recovery.operator.refusals import RefusedError, UnknownStepError
from recovery.operator.verbs import (
    Abandon,
    By,
    MarkDone,
    MarkNotDone,
    Probe,
    Resolve,
    Retry,
    Skip,
    Verb,
)
from tests.histories import COMPENSATE, PROBE, History, doing, nothing, saga
from tests.operators import ADA, case_of

RESERVE = doing("reserve")
PAY = doing("pay", lag=timedelta(seconds=10))
SHIP = doing("ship", pivot=True)
MAIL = doing("mail", retriable=True)
SHOP = saga(RESERVE, PAY, SHIP)
LONG = saga(RESERVE, PAY, SHIP, MAIL)
ASKABLE = saga(RESERVE, doing("pay", probe=nothing, key_life=timedelta(0)), SHIP)
EARNED = [{"kind": "capture", "amount_minor": 1990, "currency": "EUR", "reference": "pay-1"}]


def plan(history: History, verb: Verb, by: By = ADA) -> Plan:
    return decided(case_of(history), verb, by)


def after(history: History, verb: Verb) -> History:
    """The saga after the verb."""
    return history.records(*plan(history, verb).entries)


def kinds(found: Plan) -> list[str]:
    return [type(each).__name__ for each in found.entries]


def of_an_unknown() -> History:
    """Nobody knows what `pay` did, long after the last try; its key may still be used."""
    history = History(SHOP).succeeds("reserve")
    for _ in range(3):
        history.unknown("pay")
    assert history.visible is State.STUCK
    return history.later(hours=1)


def of_an_undo(reference: str | None = "pay-1") -> History:
    """The money cannot be given back; everything else is undone."""
    history = History(SHOP).succeeds("reserve").claims("pay")
    earned = StepSucceeded(
        step="pay", direction="forward", attempt=1, reference=reference, movements=EARNED
    )
    history.records(earned).declined("ship").declined("pay", COMPENSATE).undoes("reserve")
    assert history.visible is State.FAILED_COMPENSATION
    return history.later(hours=1)


def past_the_pivot() -> History:
    return History(LONG).succeeds("reserve", "pay", "ship").declined("mail").later(hours=1)


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


def unanswered() -> History:
    history = History(ASKABLE).succeeds("reserve").unknown("pay")
    for _ in range(10):
        history.fails("pay", PROBE)
    assert history.visible is State.STUCK
    return history.later(hours=1)


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
    found = decided(case_of(of_an_undo(), known=False), verb, ADA)
    assert isinstance(found.entries[-1], SagaResolved)


# -- what all of them refuse -----------------------------------------------------------------------

ANSWERS: list[Callable[[str], Verb]] = [
    lambda step: MarkDone(step=step, reference="r"),
    lambda step: MarkNotDone(step=step),
    lambda step: Skip(step=step),
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_is_refused_while_the_step_runs(answer: Callable[[str], Verb]) -> None:
    with pytest.raises(RefusedError, match="reserve runs now"):
        plan(History(SHOP).claims("reserve").later(hours=1), answer("reserve"))


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_is_refused_until_nothing_can_arrive_any_more_and_says_when(
    answer: Callable[[str], Verb],
) -> None:
    history = History(SHOP).succeeds("reserve")
    for _ in range(3):
        history.unknown("pay")
    began = history.state.step("pay").forward.started_at
    assert began is not None
    quiet = began + PAY.timeout + PAY.lag
    history.now = quiet - timedelta(milliseconds=1)
    with pytest.raises(RefusedError) as refused:
        plan(history, answer("pay"))
    assert refused.value.possible_from == quiet
    assert f"{quiet:%H:%M:%S}" in str(refused.value)
    history.now = quiet
    assert plan(history, answer("pay")).entries


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_undo_is_answered_for_only_when_it_cannot_arrive_any_more(
    answer: Callable[[str], Verb],
) -> None:
    history = History(saga(doing("reserve"), PAY)).succeeds("reserve").later(hours=1)
    history.declined("pay").finds_nothing("pay").declined("reserve", COMPENSATE)
    assert history.visible is State.FAILED_COMPENSATION
    with pytest.raises(RefusedError, match="may still arrive"):
        plan(history, answer("reserve"))


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_about_a_step_that_is_done_is_refused(answer: Callable[[str], Verb]) -> None:
    with pytest.raises(RefusedError, match="reserve is done"):
        plan(of_an_unknown(), answer("reserve"))


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_about_no_step_of_the_saga_names_its_steps(
    answer: Callable[[str], Verb],
) -> None:
    with pytest.raises(UnknownStepError, match="reserve, pay, ship"):
        plan(of_an_unknown(), answer("cook"))


@pytest.mark.parametrize("answer", ANSWERS)
def test_of_an_undone_step_nothing_is_left_to_say(answer: Callable[[str], Verb]) -> None:
    with pytest.raises(RefusedError, match="nothing of reserve is left"):
        plan(of_an_undo(), answer("reserve"))


EVERY: list[Verb] = [
    Retry(),
    Probe(step="pay"),
    MarkDone(step="pay", reference="r"),
    MarkNotDone(step="pay"),
    Skip(step="pay"),
    Resolve(),
    Abandon(),
]


@pytest.mark.parametrize("verb", EVERY, ids=lambda verb: verb.name)
def test_an_ended_saga_takes_no_answer(verb: Verb) -> None:
    history = History(ASKABLE).succeeds("reserve", "pay", "ship")
    with pytest.raises(RefusedError, match="has ended, completed"):
        plan(history, verb)


@pytest.mark.parametrize("verb", EVERY, ids=lambda verb: verb.name)
@pytest.mark.parametrize(
    "by",
    [By(actor="ada", reason=" "), By(actor="", reason="r"), By(actor="a\x00", reason="r")],
    ids=["no reason", "no actor", "cannot be stored"],
)
def test_no_verb_without_who_and_why(verb: Verb, by: By) -> None:
    with pytest.raises(PayloadError):
        plan(of_an_undo(), verb, by)


@pytest.mark.parametrize(
    ("verb", "by"),
    [
        (Resolve(), By(actor="ada", reason="paid with 4242424242424242")),
        (Resolve(), By(actor="4242424242424242", reason="paid")),
        (MarkDone(step="pay", reference="4242424242424242"), ADA),
        (MarkDone(step="pay", reference="r", result={"card": "4242424242424242"}), ADA),
    ],
    ids=["reason", "actor", "reference", "result"],
)
def test_no_card_number_enters_the_log_by_an_operator(verb: Verb, by: By) -> None:
    with pytest.raises(PayloadError, match="card number"):
        plan(of_an_unknown(), verb, by)


@pytest.mark.parametrize("name", ["actor", "reason"])
def test_who_and_why_fit_into_a_line_of_the_log(name: str) -> None:
    with pytest.raises(PayloadError, match="500 characters"):
        plan(of_an_undo(), Resolve(), replace(ADA, **{name: "x" * 501}))


@pytest.mark.parametrize("verb", EVERY[:-2], ids=lambda verb: verb.name)
def test_what_must_be_decided_needs_the_definition(verb: Verb) -> None:
    with pytest.raises(UnknownDefinitionError, match="AMENDS_SAGAS"):
        decided(case_of(of_an_undo(), known=False), verb, ADA)


def test_every_plan_begins_with_who_acted() -> None:
    histories: dict[str, tuple[History, Any]] = {
        "retry": (of_an_unknown(), Retry()),
        "probe": (unanswered(), Probe(step="pay")),
        "mark-done": (of_an_unknown(), MarkDone(step="pay", reference="r")),
        "mark-not-done": (of_an_unknown(), MarkNotDone(step="pay")),
        "skip": (of_an_unknown(), Skip(step="pay")),
        "resolve": (of_an_unknown(), Resolve()),
        "abandon": (of_an_unknown(), Abandon()),
    }
    for name, (history, verb) in histories.items():
        first = plan(history, verb).entries[0]
        assert isinstance(first, OperatorActed)
        assert (first.verb, first.actor, first.step) == (name, "ada", verb.step)


def test_who_answered_is_who_let_the_saga_go_on() -> None:
    [unparked] = [
        each for each in plan(of_an_unknown(), Retry()).entries if isinstance(each, SagaUnparked)
    ]
    assert (unparked.by, unparked.fresh) == ("ada", ["pay"])
