"""The sandbox's pure parts: what a payment allows, which fault strikes, what an answer means."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import OutcomeUnknown, Retriable, Terminal
from steps.gateways.errors import (
    CardDeclinedError,
    GatewayServerError,
    GatewayTimeoutError,
    GatewayUnavailableError,
    InsufficientFundsError,
    InvalidRequestError,
    KeyConflictError,
    KeyInUseError,
    LookupFailedError,
    NetworkError,
    PaymentError,
    PaymentStateError,
    RateLimitedError,
)
from steps.gateways.http_calls import Unanswered
from steps.gateways.payment import ChargeStatus
from steps.gateways.sandbox.classification import (
    BY_CODE,
    Response,
    error_of,
    lookup_error_of,
)
from steps.gateways.sandbox.faults import FaultKind, FaultRule, FaultScript, Match, Subject
from steps.gateways.sandbox.movements import (
    AUTHORIZATION_LIFETIME_SECONDS,
    Command,
    Movement,
    Operation,
    fold,
)
from steps.gateways.sandbox.rules import TOKENS, decide

AMOUNT = 1000
OK = "tok_ok"
MONEY_OPERATIONS = [Operation.CAPTURE, Operation.VOID, Operation.REFUND]


def command(operation: Operation, amount: int = AMOUNT, token: str = OK) -> Command:
    return Command(operation=operation, key="k", amount_minor=amount, currency="EUR", token=token)


def run(commands: list[Command], *, now: float = 0.0) -> list[Movement]:
    """Play commands on one payment, as the gateway does."""
    movements: list[Movement] = []
    for seq, each in enumerate(commands, start=1):
        verdict = decide(each, fold(movements, now=now))
        movements.append(
            Movement(
                seq=seq,
                at=now,
                operation=each.operation,
                key=f"k{seq}",
                reference=f"r{seq}" if each.operation is Operation.REFUND else "p",
                payment_reference="p",
                order_reference="o",
                amount_minor=each.amount_minor,
                currency=each.currency,
                effective=verdict.effective,
                answer=verdict.answer,
            )
        )
    return movements


@given(
    st.sampled_from(sorted(TOKENS)),
    st.lists(
        st.builds(command, st.sampled_from(MONEY_OPERATIONS), st.integers(-10, AMOUNT + 10)),
        max_size=12,
    ),
)
def test_no_order_of_requests_moves_money_that_is_not_there(
    token: str, later: list[Command]
) -> None:
    movements = run([command(Operation.AUTHORIZE, token=token), *later])

    moved = {
        operation: [m.amount_minor for m in movements if m.effective and m.operation is operation]
        for operation in Operation
    }
    authorized, captured = sum(moved[Operation.AUTHORIZE]), sum(moved[Operation.CAPTURE])
    assert len(moved[Operation.CAPTURE]) <= 1
    assert sum(moved[Operation.REFUND]) <= captured <= authorized
    assert not (moved[Operation.VOID] and moved[Operation.CAPTURE])
    assert len(moved[Operation.VOID]) <= len(moved[Operation.AUTHORIZE])


def test_every_operation_has_an_answer_in_every_state() -> None:
    histories = {
        ChargeStatus.AUTHORIZED: [command(Operation.AUTHORIZE)],
        ChargeStatus.DECLINED: [command(Operation.AUTHORIZE, token="tok_declined")],
        ChargeStatus.REQUIRES_ACTION: [command(Operation.AUTHORIZE, token="tok_challenge")],
        ChargeStatus.CAPTURED: [command(Operation.AUTHORIZE), command(Operation.CAPTURE)],
        ChargeStatus.VOIDED: [command(Operation.AUTHORIZE), command(Operation.VOID)],
        ChargeStatus.REFUNDED: [
            command(Operation.AUTHORIZE),
            command(Operation.CAPTURE),
            command(Operation.REFUND),
        ],
        ChargeStatus.EXPIRED: [command(Operation.AUTHORIZE)],
    }
    assert set(histories) == set(ChargeStatus)

    allowed = set()
    for (status, history), operation in product(histories.items(), MONEY_OPERATIONS):
        now = AUTHORIZATION_LIFETIME_SECONDS if status is ChargeStatus.EXPIRED else 0.0
        payment = fold(run(history), now=now)
        assert payment is not None
        assert payment.status is status
        if decide(command(operation), payment).status < 300:
            allowed.add((status, operation))

    assert allowed == {
        (ChargeStatus.AUTHORIZED, Operation.CAPTURE),
        (ChargeStatus.AUTHORIZED, Operation.VOID),
        (ChargeStatus.REQUIRES_ACTION, Operation.VOID),
        (ChargeStatus.CAPTURED, Operation.REFUND),
    }


def subject(order: str = "o", attempt: int = 1, key: str = "k") -> Subject:
    return Subject(
        operation=Operation.AUTHORIZE,
        order_reference=order,
        reference=None,
        key=key,
        attempt=attempt,
    )


def test_a_fault_strikes_its_order_as_often_as_scripted() -> None:
    script = FaultScript()
    script.add(
        FaultRule(fault=FaultKind.DROP_AFTER, match=Match(order_reference="o", nth=2), times=2)
    )

    struck = [bool(script.plan(subject())) for _ in range(5)]

    assert struck == [False, True, True, False, False]
    assert not script.plan(subject(order="another"))


def test_several_faults_meet_one_request() -> None:
    script = FaultScript()
    script.add(FaultRule(fault=FaultKind.SLOW_BEFORE, delay_ms=5))
    script.add(FaultRule(fault=FaultKind.DECLINE))

    plan = script.plan(subject())

    assert set(plan) == {FaultKind.SLOW_BEFORE, FaultKind.DECLINE}
    assert plan.forced_answer(Operation.AUTHORIZE) == "card_declined"
    assert plan.forced_answer(Operation.SHIP) is None


def test_a_seeded_rate_strikes_the_same_requests_every_time() -> None:
    def struck(seed: int) -> list[bool]:
        script = FaultScript()
        script.add(FaultRule(fault=FaultKind.DROP_AFTER, times=None, rate=0.3, seed=seed))
        return [bool(script.plan(subject(key=f"k{number}"))) for number in range(1000)]

    assert struck(1) == struck(1)
    assert struck(1) != struck(2)
    assert 250 < sum(struck(1)) < 350


def refused(status: int, code: str, **extra: object) -> Response:
    return Response(status=status, body={"error": {"code": code, "message": "m", **extra}})


@pytest.mark.parametrize(
    ("ending", "error_type", "outcome"),
    [
        (Unanswered(was_sent=False, reason="ConnectError"), NetworkError, Retriable),
        (Unanswered(was_sent=True, reason="ReadTimeout"), GatewayTimeoutError, OutcomeUnknown),
        (refused(429, "rate_limited"), RateLimitedError, Retriable),
        (Response(status=429, body=None), RateLimitedError, Retriable),
        (refused(503, "unavailable"), GatewayServerError, OutcomeUnknown),
        (refused(503, "unavailable", no_effect=False), GatewayServerError, OutcomeUnknown),
        (refused(503, "unavailable", no_effect="true"), GatewayServerError, OutcomeUnknown),
        (refused(503, "unavailable", no_effect=True), GatewayUnavailableError, Retriable),
        (refused(500, "card_declined"), GatewayServerError, OutcomeUnknown),
        (Response(status=502, body=None), GatewayServerError, OutcomeUnknown),
        (Response(status=404, body=None), GatewayServerError, OutcomeUnknown),
        (Response(status=302, body=None), GatewayServerError, OutcomeUnknown),
        (Response(status=200, body=None), GatewayServerError, OutcomeUnknown),
        (Response(status=400, body={"error": "text"}), GatewayServerError, OutcomeUnknown),
        (refused(409, "never_heard_of"), GatewayServerError, OutcomeUnknown),
        (refused(409, "already_voided", payment={"x": 1}), GatewayServerError, OutcomeUnknown),
        (refused(409, "key_in_use"), KeyInUseError, OutcomeUnknown),
        (refused(409, "key_conflict"), KeyConflictError, OutcomeUnknown),
        (refused(409, "already_voided"), PaymentStateError, Terminal),
        (refused(402, "card_declined"), CardDeclinedError, Terminal),
        (refused(402, "insufficient_funds"), InsufficientFundsError, Terminal),
        (refused(400, "invalid_token"), InvalidRequestError, Terminal),
        (refused(400, "malformed_request"), InvalidRequestError, Terminal),
    ],
)
def test_every_ending_of_a_call_means_one_error(
    ending: Response | Unanswered, error_type: type[PaymentError], outcome: type[Exception]
) -> None:
    error = error_of(ending)

    assert type(error) is error_type
    assert isinstance(error, outcome)
    assert error.is_retriable is (outcome is Retriable)


def test_only_answers_that_the_key_keeps_are_decisive() -> None:
    undecided = {
        code
        for code in BY_CODE
        if isinstance(error := error_of(refused(400, code)), Terminal) and not error.decisive
    }

    assert undecided == {"malformed_request", "key_required", "key_too_long"}


def test_a_rate_limit_spends_no_budget() -> None:
    error = error_of(refused(429, "rate_limited"))

    assert isinstance(error, RateLimitedError)
    assert not error.spends_budget


@pytest.mark.parametrize(
    "ending", [Unanswered(was_sent=True, reason="ReadTimeout"), Response(status=500, body=None)]
)
def test_a_question_without_an_answer_can_be_asked_again(ending: Response | Unanswered) -> None:
    assert type(lookup_error_of(ending)) is LookupFailedError
