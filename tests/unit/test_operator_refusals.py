"""What every operator verb refuses, whatever the saga: from plain values."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.entries import (
    OperatorActed,
    SagaParked,
    SagaResolved,
    SagaUnparked,
)
from orchestrator.errors import PayloadError, UnknownDefinitionError
from orchestrator.state import State
from orchestrator.storage.tombstones import REASON
from recovery.operator.deciding import decided
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
from tests.histories import COMPENSATE, History, doing, saga
from tests.operators import (
    ADA,
    ASKABLE,
    EVERY,
    PAY,
    SHOP,
    case_of,
    of_an_undo,
    of_an_unknown,
    plan,
    unanswered,
)

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
    words = {"actor": "ada", "reason": "r", name: "x" * 501}
    with pytest.raises(PayloadError, match="500 characters"):
        plan(of_an_undo(), Resolve(), By(actor=words["actor"], reason=words["reason"]))


@pytest.mark.parametrize("verb", EVERY[:-2], ids=lambda verb: verb.name)
def test_what_must_be_decided_needs_the_definition(verb: Verb) -> None:
    with pytest.raises(UnknownDefinitionError, match="AMENDS_SAGAS"):
        decided(case_of(of_an_undo(), known=False), verb, ADA)


@pytest.mark.parametrize("verb", EVERY, ids=lambda verb: verb.name)
def test_a_pruned_saga_that_is_back_is_closed_and_never_goes_on(verb: Verb) -> None:
    """It knows nothing any more: it would take the money a second time."""
    history = History(SHOP)
    history.records(
        SagaParked(state="stuck", reason=REASON, question="and now?", steps=["pay"])
    ).late("pay", attempt=1, reference="pay-1").later(hours=1)
    if isinstance(verb, Resolve | Abandon):
        assert isinstance(plan(history, verb).entries[-1], SagaResolved)
        return
    with pytest.raises(RefusedError, match="history was pruned"):
        plan(history, verb)


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
