"""A step's calls pass its policy; what is not let through had no effect, or is unknown."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest

from orchestrator.context import Lease, Resources, StepContext
from orchestrator.definition import SagaDefinition
from orchestrator.entries import StepFailed
from orchestrator.errors import DefinitionError, OutcomeUnknown, Retriable, Terminal
from orchestrator.guarding import (
    Breaker,
    CallPolicy,
    Guards,
    NotLetThrough,
    Rate,
    Request,
    Verdict,
    judged,
)
from orchestrator.outcomes import raised
from orchestrator.pauses import not_before
from orchestrator.state import State, Track
from steps.gateways import errors
from steps.gateways.outages import of_gateway
from tests.histories import COMPENSATE, FORWARD, QUICK, History, Order, doing, saga

T = TypeVar("T")
SECOND = timedelta(seconds=1)
POLICY = CallPolicy(name="bank", rate=Rate(1))


class OnlyTheFirst:
    """Lets so many requests through, and notes all."""

    def __init__(self, room: int) -> None:
        self._room = room
        self.requests: list[Request] = []

    def call(self, policy: CallPolicy, request: Request, send: Callable[[], T]) -> T:
        assert policy is POLICY
        self.requests.append(request)
        if len(self.requests) > self._room:
            raise NotLetThrough("full", code="rate_reached", retry_after=SECOND, is_exact=True)
        return send()


def context(guards: OnlyTheFirst, *, direction: str = "forward") -> StepContext[Order]:
    now = time.monotonic()
    return StepContext(
        saga_id=UUID(int=1),
        definition="shop",
        saga_key="A-1",
        step="pay",
        direction=direction,
        attempt=1,
        idempotency_key="shop:A-1:pay",
        step_key="shop:A-1:pay",
        payload=Order(),
        results={},
        effect=None,
        signal=None,
        now=datetime.now(UTC),
        resources=Resources(factories={Guards: lambda: guards}),
        lease=Lease(valid_until=now + 60, ends_at=now + 60),
        calls=POLICY,
    )


def refused(_seconds: float) -> None:
    raise Terminal("declined")


def no_answer(_seconds: float) -> None:
    raise OutcomeUnknown("no answer")


def done(seconds: float) -> float:
    return seconds


def test_a_call_is_told_its_deadline_after_it_was_let_through() -> None:
    ctx = context(OnlyTheFirst(1))

    assert ctx.call(done, SECOND) == 1.0


def test_every_request_of_an_attempt_has_its_number_under_one_key() -> None:
    guards = OnlyTheFirst(3)
    ctx = context(guards, direction="compensate")
    ctx.ask(done, SECOND)
    ctx.call(done, SECOND)

    assert [(each.key, each.number) for each in guards.requests] == [
        (f"{UUID(int=1)}/pay/compensate", 1),
        (f"{UUID(int=1)}/pay/compensate", 2),
    ]


def test_a_call_that_was_not_let_through_had_no_effect() -> None:
    with pytest.raises(NotLetThrough):
        context(OnlyTheFirst(0)).call(done, SECOND)


@pytest.mark.parametrize("first", [done, no_answer])
def test_after_a_call_that_may_have_acted_a_refused_one_leaves_the_outcome_unknown(
    first: Callable[[float], Any],
) -> None:
    ctx = context(OnlyTheFirst(1))
    with suppress(OutcomeUnknown):
        ctx.call(first, SECOND)

    with pytest.raises(OutcomeUnknown):
        ctx.call(done, SECOND)


def test_after_a_question_or_a_final_no_a_refused_call_had_no_effect() -> None:
    asked, declined = context(OnlyTheFirst(1)), context(OnlyTheFirst(1))
    asked.ask(done, SECOND)
    with pytest.raises(Terminal):
        declined.call(refused, SECOND)

    for each in (asked, declined):
        with pytest.raises(NotLetThrough):
            each.call(done, SECOND)


def test_an_exact_moment_gets_no_jitter_and_spends_no_budget() -> None:
    error = NotLetThrough("full", code="rate_reached", retry_after=SECOND, is_exact=True)
    failed = raised(doing("pay"), FORWARD, 1, error)
    ended = datetime(2026, 11, 24, tzinfo=UTC)
    track = Track(last=failed, ended_at=ended, attempts=1)

    assert isinstance(failed, StepFailed)
    assert not failed.spends_budget
    assert not failed.terminal
    assert not_before(track, QUICK, "seed", "pay", FORWARD) == ended + SECOND


def test_policies_are_not_part_of_a_definitions_shape() -> None:
    plain: SagaDefinition[Any] = saga(doing("pay"))
    guarded: SagaDefinition[Any] = saga(doing("pay", calls=POLICY))

    assert plain.hash == guarded.hash


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Rate(0),
        lambda: Rate(1, per=timedelta(0)),
        lambda: Breaker(failures=0),
        lambda: Breaker(share=1.5),
        lambda: Breaker(open_for=timedelta(0)),
    ],
)
def test_a_policy_that_could_never_work_is_refused(wrong: Callable[[], Any]) -> None:
    with pytest.raises(DefinitionError):
        wrong()


ANSWERS = [
    errors.CardDeclinedError("no"),
    errors.InsufficientFundsError("no"),
    errors.FraudBlockedError("no"),
    errors.InvalidRequestError("what?"),
    errors.PaymentStateError("captured"),
    errors.RateLimitedError("429"),
    errors.KeyInUseError("in flight"),
    errors.KeyConflictError("other parameters"),
    errors.AuthenticationRequiredError(challenge_url="https://bank.example/", reference="p"),
    errors.GatewayServerError("a stored 500", is_replayed=True),
    errors.BalanceTooLowError("no refund today"),
]
OUTAGES = [
    errors.NetworkError("refused"),
    errors.GatewayTimeoutError("no answer"),
    errors.GatewayServerError("500"),
    errors.GatewayUnavailableError("503"),
    errors.LookupFailedError("500"),
]


@pytest.mark.parametrize("error", ANSWERS, ids=lambda each: type(each).__name__)
def test_an_answer_never_counts_against_a_gateway(error: Exception) -> None:
    assert of_gateway(error) is Verdict.ANSWERED


@pytest.mark.parametrize("error", OUTAGES, ids=lambda each: type(each).__name__)
def test_silence_and_failure_count_against_a_gateway(error: Exception) -> None:
    assert of_gateway(error) is Verdict.OUTAGE


@pytest.mark.parametrize(
    "error",
    [
        Retriable("send-by passed"),
        OutcomeUnknown("after another call", code="send_by_passed"),
        KeyError("a bug of ours"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_was_never_sent_says_nothing_of_a_gateway(error: Exception) -> None:
    assert of_gateway(error) is judged(error) is Verdict.NOTHING


def test_without_a_table_pythons_own_errors_count() -> None:
    assert judged(ConnectionRefusedError()) is judged(TimeoutError()) is Verdict.OUTAGE


def held_back(attempt_after: timedelta = timedelta(seconds=5)) -> dict[str, Any]:
    """How an attempt ends that an open circuit stopped."""
    return {
        "spends_budget": False,
        "is_exact": True,
        "retry_after_seconds": attempt_after.total_seconds(),
        "error": {"code": "circuit_open", "message": "open"},
    }


def test_what_was_unknown_stays_unknown_however_often_the_circuit_is_open() -> None:
    history = History(saga(doing("pay"), doing("ship"))).unknown("pay")
    for _ in range(50):
        history.fails("pay", **held_back())

    track = history.state.step("pay").forward
    assert track.unsettled
    assert (track.unknowns, track.failures) == (1, 0)
    assert [each.step for each in history.decision.runs] == ["pay"]
    assert history.decision.visible is State.RUNNING


def test_at_its_deadline_a_saga_turns_round_and_its_undo_waits_for_the_circuit_too() -> None:
    history = History(saga(doing("pay"), doing("ship"), deadline=timedelta(minutes=30)))
    history.fails("pay", **held_back()).later(minutes=31)
    assert history.decision.runs[0].direction == COMPENSATE
    for _ in range(50):  # far more often than its budget allows it to fail
        history.fails("pay", COMPENSATE, **held_back())

    assert history.decision.visible is State.COMPENSATING
    assert [each.step for each in history.decision.runs] == ["pay"]


def test_at_its_deadline_what_is_unknown_is_settled_before_anything_is_taken_back() -> None:
    history = History(saga(doing("pay"), doing("ship"), deadline=timedelta(minutes=30)))
    history.unknown("pay").fails("pay", **held_back()).later(minutes=31)

    assert [each.direction for each in history.decision.runs] == [FORWARD]
    assert history.decision.visible is State.RUNNING
