"""An operator's word about an effect outside: looked up, or confirmed by a second person."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.books import books
from orchestrator.closing import Close, Closing, Stop
from orchestrator.context import CannotTell, Effect, Found, Movement, NotLanded, Standing
from orchestrator.entries import (
    Direction,
    EvidenceAsserted,
    EvidenceConfirmed,
    MovementSettled,
    OperatorActed,
    SagaResolved,
    SagaUnparked,
    StepSettled,
    StepSkipped,
    StepSucceeded,
    UndoFailed,
)
from orchestrator.errors import DefinitionError, HistoryError
from orchestrator.money_at_risk import money_at_risk
from orchestrator.state import State
from recovery.operator.assertions import VALID_FOR
from recovery.operator.deciding import asked
from recovery.operator.evidence import (
    AskNobody,
    AskProbe,
    Differs,
    Evidence,
    LookUp,
    Unverified,
    Verified,
    judged,
)
from recovery.operator.identity import Identity, IdentityKind
from recovery.operator.recommending import recommended
from recovery.operator.refusals import RefusedError
from recovery.operator.verbs import (
    Abandon,
    By,
    Confirm,
    MarkDone,
    MarkNotDone,
    Resolve,
    Retry,
    Skip,
    Verb,
    Withdraw,
)
from recovery.timeline import timeline
from tests.histories import COMPENSATE, History, doing, nothing, saga
from tests.operators import (
    PAY,
    SHIP,
    case_of,
    kinds,
    of_an_undo,
    of_an_unknown,
    past_the_pivot,
    person,
    plan,
)
from tests.unit.test_closing import paid, refunded
from tests.unit.test_operator_books import pending_too_long

ADA, BOB = person("ada"), person("bob", "saw it too")
UNSEEN = Unverified(why="nothing is found under transfer-9")
TRANSFER = MarkDone(step="pay", reference="transfer-9")
SAID = MarkDone(step="pay", reference="pay-1", result={"id": 1})
THERE = Standing(order="order-1", amount_minor=1990, currency="EUR", status="captured")
REFUND = Movement(kind="refund", amount_minor=1990, currency="EUR", reference="r-1")


def says(history: History, verb: Verb, by: By = ADA, evidence: Evidence = UNSEEN) -> History:
    return history.records(*plan(history, verb, by, evidence).entries)


def by_word(history: History, verb: Verb) -> History:
    return says(says(history, verb), Confirm(), BOB)


def of_a_challenge() -> History:
    """The payer was asked to authenticate a payment: once they do, it is held."""
    return History(saga(PAY, SHIP)).waits("pay", "payer", decisive=True, reference="pay-1", hours=1)


# -- looked up -------------------------------------------------------------------------------------


def test_what_the_other_side_has_is_what_the_log_tells() -> None:
    effect = Effect(value={"id": "pay-1"}, reference="pay-1", movements=[REFUND])
    found = plan(
        of_an_unknown(),
        MarkDone(step="pay", reference="pay-1"),
        ADA,
        Verified(shown={"order": "order-1"}, effect=effect),
    )
    [acted, settled, _] = found.entries
    assert settled == StepSettled(
        step="pay",
        direction=Direction.FORWARD,
        landed=True,
        by="ada",
        attempt=3,
        result={"id": "pay-1"},
        reference="pay-1",
        movements=[REFUND.as_json()],
        evidence={"order": "order-1"},
    )
    assert isinstance(acted, OperatorActed)
    assert acted.identity == "os_user:ada"


@pytest.mark.parametrize(
    "verb",
    [
        MarkDone(step="pay", reference="pay-1", result={"id": "another"}),
        MarkDone(
            step="pay",
            reference="pay-1",
            movements=[Movement(kind="capture", amount_minor=1, currency="EUR")],
        ),
    ],
    ids=["result", "money"],
)
def test_beside_what_was_looked_up_nobody_says_something_else(verb: MarkDone) -> None:
    there = Verified(shown={}, effect=Effect(value={"id": "pay-1"}, reference="pay-1"))
    with pytest.raises(RefusedError, match="the other side has"):
        plan(of_an_unknown(), verb, ADA, there)


def test_what_differs_is_refused_with_both_sides() -> None:
    asked_for = asked(case_of(of_an_unknown()), MarkDone(step="pay", reference="pay-2"))
    assert isinstance(asked_for, LookUp)
    theirs = replace(THERE, order="order-2", amount_minor=500)
    evidence = judged(asked_for, Found(theirs=theirs, ours=THERE))
    with pytest.raises(RefusedError) as refused:
        plan(of_an_unknown(), MarkDone(step="pay", reference="pay-2"), ADA, evidence)
    assert "order-2" in str(refused.value)
    assert "500 EUR" in str(refused.value)
    assert "order-1" in str(refused.value)
    assert "1990 EUR" in str(refused.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"order": "order-2"},
        {"amount_minor": 1989},
        {"currency": "USD"},
        {"status": "voided"},
        {"reference": "other"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_every_part_of_what_was_found_must_fit(changed: dict[str, Any]) -> None:
    look_up = LookUp(step="pay", direction=Direction.FORWARD, reference="p", effect=None, done=True)
    assert isinstance(judged(look_up, Found(theirs=THERE, ours=THERE)), Verified)
    found = Found(theirs=replace(THERE, **changed), ours=THERE)
    assert isinstance(judged(look_up, found), Differs)


def test_a_refund_that_is_pending_there_is_not_said_to_be_settled() -> None:
    question = asked(case_of(pending_too_long()), MarkDone(step="pay", reference="r-1"))
    assert isinstance(question, LookUp)
    assert (question.direction, question.reference) == (COMPENSATE, "r-1")
    pending = replace(REFUND, pending=True)
    found = Found(theirs=THERE, ours=THERE, effect=Effect(movements=[pending]))
    assert isinstance(judged(question, found), Differs)
    final = Found(theirs=THERE, ours=THERE, effect=Effect(movements=[REFUND]))
    assert isinstance(judged(question, final), Verified)


def test_not_done_is_believed_only_of_what_nothing_happened_to() -> None:
    question = asked(case_of(of_an_undo()), MarkNotDone(step="pay"))
    assert isinstance(question, LookUp)
    assert (question.done, question.reference) == (False, "pay-1")
    untouched = Found(theirs=THERE, ours=replace(THERE, status="refunded"), untouched=True)
    assert isinstance(judged(question, untouched), Verified)
    assert isinstance(judged(question, replace(untouched, untouched=False)), Differs)
    assert isinstance(judged(question, NotLanded()), Unverified)
    assert isinstance(judged(question, CannotTell()), Unverified)


@pytest.mark.parametrize(
    ("history", "verb", "wanted"),
    [
        (of_an_unknown, MarkNotDone(step="pay"), AskProbe),
        (of_an_unknown, Skip(step="pay"), AskProbe),
        (of_an_unknown, SAID, LookUp),
        (of_an_undo, TRANSFER, LookUp),
        (of_an_undo, Skip(step="pay"), LookUp),
        (of_an_undo, Resolve(), AskNobody),
        (of_an_unknown, Abandon(), AskNobody),
        (of_a_challenge, Abandon(), AskNobody),
        (of_an_unknown, Retry(), type(None)),
    ],
)
def test_each_verb_has_its_question(history: Any, verb: Verb, wanted: type) -> None:
    assert isinstance(asked(case_of(history()), verb), wanted)


def test_what_leaves_no_trace_outside_needs_no_second_person() -> None:
    local = saga(SHIP, doing("pay", transactional=True, retriable=True))
    history = History(local).succeeds("ship").declined("pay").later(hours=1)
    assert asked(case_of(history), MarkDone(step="pay", reference="x")) is None


def test_a_step_that_was_not_done_is_not_skipped_by_one_person() -> None:
    """The saga would end as completed, as if it were done: paid and never shipped."""
    never_ran = asked(case_of(of_an_unknown()), Skip(step="ship"))
    assert isinstance(never_ran, AskNobody)
    unknown = asked(case_of(of_an_unknown()), Skip(step="pay"))
    assert isinstance(unknown, AskProbe)
    assert unknown.waives
    assert asked(case_of(past_the_pivot()), Skip(step="mail")) is None


# -- by word ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("history", "verb"),
    [
        (of_an_unknown, SAID),
        (of_an_unknown, MarkNotDone(step="pay")),
        (of_an_unknown, MarkNotDone(step="pay", take_back=True)),
        (of_an_unknown, Skip(step="pay")),
        (of_an_unknown, Abandon()),
        (of_an_undo, TRANSFER),
        (of_an_undo, MarkNotDone(step="pay")),
        (of_an_undo, Resolve()),
        (pending_too_long, MarkDone(step="pay", reference="r-1")),
        (pending_too_long, MarkNotDone(step="pay")),
    ],
)
def test_one_persons_word_changes_nothing(history: Any, verb: Verb) -> None:
    found: History = history()
    before = found.state
    says(found, verb)
    assert replace(found.state, assertions=(), seq=before.seq) == before
    [assertion] = found.state.assertions
    assert (assertion.verb, assertion.step, assertion.identity) == (
        verb.name,
        verb.step,
        "os_user:ada",
    )
    assert assertion.until == found.now + VALID_FOR


def test_by_word_of_both_the_saga_goes_on_and_ends_as_resolved() -> None:
    history = by_word(of_an_unknown(), SAID)
    assert history.wants == ["ship#1"]
    history.succeeds("ship")
    assert history.visible is State.RESOLVED
    assert history.log[-1].entry == SagaResolved(
        actor="os_user:ada and os_user:bob", reason="by word of both; it could not be looked up"
    )


@pytest.mark.parametrize("verb", [TRANSFER, Resolve()])
def test_by_word_of_both_nothing_is_called_compensated(verb: Verb) -> None:
    history = by_word(of_an_undo(), verb)
    assert history.visible is State.RESOLVED
    [resolved] = [each.entry for each in history.log if isinstance(each.entry, SagaResolved)]
    assert resolved.actor == "os_user:ada and os_user:bob"


def test_an_unverified_fact_is_a_word_also_without_its_confirmation() -> None:
    history = of_an_undo()
    settled = StepSettled(
        step="pay", direction=COMPENSATE, landed=True, by="ada and bob", unverified=True
    )
    history.records(settled, SagaUnparked(by="ada and bob"))
    assert history.visible is State.RESOLVED


def test_what_follows_from_a_word_is_marked_in_the_log() -> None:
    history = by_word(of_an_undo(), TRANSFER)
    [settled] = [each.entry for each in history.log if isinstance(each.entry, StepSettled)]
    assert settled.unverified
    assert settled.by == "os_user:ada and os_user:bob"
    told = [each.detail or "" for each in timeline(history.log)]
    assert any("not looked up" in each for each in told)


@pytest.mark.parametrize(
    ("history", "verb", "kind"),
    [
        (of_an_unknown, Skip(step="pay"), StepSkipped),
        (pending_too_long, MarkDone(step="pay", reference="r-1"), MovementSettled),
        (pending_too_long, MarkNotDone(step="pay"), UndoFailed),
    ],
)
def test_every_fact_says_that_it_is_a_word(history: Any, verb: Verb, kind: type[Any]) -> None:
    found = by_word(history(), verb)
    [fact] = [each.entry for each in found.log if isinstance(each.entry, kind)]
    assert fact.unverified


def test_the_books_take_no_word_for_money_moved() -> None:
    history = by_word(of_an_undo(), TRANSFER)
    assert books(history.state.money)["EUR"].kept == 1990
    assert books(history.state.money, words=True)["EUR"].kept == 0
    assert money_at_risk(history.log)["EUR"].captured_minor == 1990


def test_what_was_done_by_word_is_at_risk_though_no_book_has_it() -> None:
    moved = [Movement(kind="capture", amount_minor=1990, currency="EUR")]
    history = by_word(of_an_unknown(), MarkDone(step="pay", reference="p", movements=moved))
    assert books(history.state.money) == {}
    assert money_at_risk(history.log)["EUR"].captured_minor == 1990


def test_a_word_that_does_not_explain_the_books_does_not_close_the_saga() -> None:
    def strict(closing: Closing) -> Close | Stop:
        kept = sum(each.kept for each in closing.books.values())
        return Stop(question="where is the money?") if kept else Close()

    definition = saga(doing("a"), doing("pay"), doing("ship", pivot=True), closing=strict)
    history = History(definition).claims("a")
    taken = {**REFUND.as_json(), "kind": "capture"}
    history.records(
        StepSucceeded(step="a", direction="forward", attempt=1, reference="a-1", movements=[taken])
    )
    history.succeeds("pay").declined("ship")
    history.declined("pay", COMPENSATE).undoes("a").later(hours=1)
    by_word(history, TRANSFER)
    assert history.visible is State.FAILED_COMPENSATION


def test_a_pending_refund_is_waited_for_also_by_word() -> None:
    history = refunded(paid(), pending=True)
    by_word(history, MarkDone(step="pay", reference="r-1"))
    assert history.visible is State.RESOLVED


# -- who may confirm -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "second",
    [
        ADA,
        replace(ADA, actor="bob"),
        By(actor="b", reason="r", identity=Identity(kind=IdentityKind.OS_USER, name=" Ada ")),
        By(actor="b", reason="r", identity=Identity(kind=IdentityKind.OS_USER, name="\uff21DA")),
        By(actor="b", reason="r", identity=Identity(kind=IdentityKind.TOKEN, name="bob")),
        By(actor="b", reason="r", identity=Identity(kind=IdentityKind.SHARED_ROLE, name="bob")),
        By(actor="bob", reason="r"),
    ],
    ids=["herself", "two actors", "upper case", "wide letters", "other kind", "shared", "nobody"],
)
def test_nobody_who_may_be_the_same_person_confirms(second: By) -> None:
    history = says(of_an_undo(), TRANSFER)
    with pytest.raises(RefusedError, match=r"same person|person's|nobody is authenticated"):
        plan(history, Confirm(), second, UNSEEN)


def test_two_tokens_of_one_name_are_one_person() -> None:
    def token(name: str) -> By:
        identity = Identity(kind=IdentityKind.TOKEN, name=name)
        return By(actor=name, reason="r", identity=identity)

    history = says(of_an_undo(), TRANSFER, token("shop"))
    with pytest.raises(RefusedError, match="same person"):
        plan(history, Confirm(), token("Shop"), UNSEEN)
    assert says(history, Confirm(), token("desk")).visible is State.RESOLVED


def test_nobody_in_particular_cannot_claim() -> None:
    with pytest.raises(RefusedError, match="nobody is authenticated"):
        plan(of_an_undo(), TRANSFER, By(actor="ada", reason="r"), UNSEEN)


def test_a_log_in_which_somebody_confirms_their_own_word_is_no_history() -> None:
    history = says(of_an_undo(), TRANSFER)
    [assertion] = history.state.assertions
    with pytest.raises(HistoryError, match="own word"):
        history.records(EvidenceConfirmed(assertion=assertion.seq, identity="os_user:ada"))


# -- when ------------------------------------------------------------------------------------------


def test_an_assertion_expires_after_a_day() -> None:
    history = says(of_an_undo(), TRANSFER)
    history.now += VALID_FOR - timedelta(seconds=1)
    assert kinds(plan(history, Confirm(), BOB, UNSEEN))[:2] == [
        "OperatorActed",
        "EvidenceConfirmed",
    ]
    history.now += timedelta(seconds=1)
    with pytest.raises(RefusedError, match="say it again"):
        plan(history, Confirm(), BOB, UNSEEN)
    assert history.state.pending_assertions(history.now) == ()


def test_what_is_withdrawn_cannot_be_confirmed() -> None:
    history = says(says(of_an_undo(), TRANSFER), Withdraw())
    with pytest.raises(RefusedError, match="nothing waits for a second person"):
        plan(history, Confirm(), BOB, UNSEEN)


def test_an_assertion_lapses_when_the_saga_moves() -> None:
    history = says(of_an_undo(), TRANSFER)
    history.records(MovementSettled(step="pay", reference="x", by="webhook"))
    with pytest.raises(RefusedError, match="moved on"):
        plan(history, Confirm(), BOB, UNSEEN)


def test_a_retry_is_harmless_and_ends_the_claim() -> None:
    history = says(of_an_undo(), TRANSFER)
    says(history, Retry())
    assert history.state.assertions == ()


def test_of_several_claims_the_one_that_is_meant_is_named() -> None:
    history = says(says(of_an_undo(), TRANSFER), Resolve())
    first, second = (each.seq for each in history.state.assertions)
    with pytest.raises(RefusedError, match=f"--assertion {first} .*--assertion {second} "):
        plan(history, Confirm(), BOB, UNSEEN)
    assert says(history, Confirm(assertion=second), BOB).visible is State.RESOLVED
    assert history.state.assertions == ()


def test_what_can_be_looked_up_by_then_needs_nobodys_word() -> None:
    history = says(of_an_undo(), TRANSFER)
    effect = Effect(reference="pay-1", movements=[REFUND])
    says(history, Confirm(), BOB, Verified(shown={"status": "refunded"}, effect=effect))
    assert history.visible is State.COMPENSATED


def test_what_proves_false_by_then_is_not_confirmed() -> None:
    history = says(of_an_undo(), TRANSFER)
    with pytest.raises(RefusedError, match="it is held"):
        plan(history, Confirm(), BOB, Differs(why="it is held"))


# -- seen by others --------------------------------------------------------------------------------


def test_the_command_to_confirm_is_advised_first() -> None:
    history = says(of_an_undo(), TRANSFER)
    [assertion] = history.state.assertions
    first, second, *_ = recommended(case_of(history))
    assert first.command.startswith("amends confirm ")
    assert f"--assertion {assertion.seq}" in first.command
    assert "os_user:ada" in first.why
    assert second.command.startswith("amends withdraw ")


def test_what_is_claimed_is_kept_word_for_word() -> None:
    moved = [Movement(kind="capture", amount_minor=5, currency="EUR", pending=True)]
    verb = MarkDone(step="pay", reference="p", result={"a": 1}, movements=moved, take_back=True)
    history = says(of_an_unknown(), verb)
    asserted = history.log[-1].entry
    assert isinstance(asserted, EvidenceAsserted)
    assert asserted.words["result"] == {"a": 1}
    says(history, Confirm(), BOB)
    [settled] = [each.entry for each in history.log if isinstance(each.entry, StepSettled)]
    assert settled.movements == [{**moved[0].as_json(), "reference": "p"}]
    assert history.wants == ["undo pay#1"]


def test_a_step_has_a_lookup_only_where_it_acts_outside() -> None:
    with pytest.raises(DefinitionError, match="lookup"):
        doing("pay", transactional=True, lookup=nothing)
    assert PAY.lookup is None
