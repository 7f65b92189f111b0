"""The seed's decorators: what they stop, what they let pass, and what they never do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from orchestrator.errors import DefinitionError, OutcomeUnknown, Retriable, Terminal
from orchestrator.guarding import NotLetThrough
from orchestrator.instrumentation import observed
from workers.resilience.decorators import (
    circuit_breaker,
    log_execution,
    rate_limit,
    retry,
    timer,
)

MINUTE = timedelta(minutes=1)
CARD = "4111 1111 1111 1111"


class Bank:
    """Answers as it is told to, one after the other, then always well."""

    def __init__(self, *answers: Exception) -> None:
        self.calls = 0
        self._answers: Iterator[Exception] = iter(answers)

    def charge(self) -> str:
        self.calls += 1
        answer = next(self._answers, None)
        if answer is not None:
            raise answer
        return "charged"


def test_a_named_failure_is_tried_again_until_the_attempts_are_used_up() -> None:
    passing, hopeless = Bank(ConnectionError()), Bank(*[ConnectionError()] * 9)
    again = retry(max_attempts=3, delay=0.001, exceptions=(ConnectionError,))

    assert again(passing.charge)() == "charged"
    with pytest.raises(ConnectionError):
        again(hopeless.charge)()
    assert (passing.calls, hopeless.calls) == (2, 3)


@pytest.mark.parametrize("final", [Terminal("declined"), OutcomeUnknown("?"), KeyError("a bug")])
def test_what_is_final_or_may_have_happened_is_never_tried_again(final: Exception) -> None:
    bank = Bank(final)
    named = (ConnectionError, Terminal, OutcomeUnknown)

    with pytest.raises(type(final)):
        retry(delay=0.001, exceptions=named)(bank.charge)()
    assert bank.calls == 1


def test_a_retry_after_is_honoured() -> None:
    bank = Bank(Retriable("busy", retry_after=timedelta(milliseconds=1)))

    assert retry(delay=60.0, exceptions=(Retriable,))(bank.charge)() == "charged"


def test_nobody_sleeps_for_longer_than_a_minute() -> None:
    bank = Bank(Retriable("closed", retry_after=MINUTE * 1.01))

    with pytest.raises(Retriable):
        retry(exceptions=(Retriable,))(bank.charge)()
    assert bank.calls == 1


def test_five_outages_open_the_circuit_and_five_declines_do_not() -> None:
    down, declining = Bank(*[ConnectionError()] * 9), Bank(*[Terminal("declined")] * 50)
    charge_down = circuit_breaker(failure_threshold=5)(down.charge)
    charge = circuit_breaker(failure_threshold=5)(declining.charge)
    for _ in range(5):
        with pytest.raises(ConnectionError):
            charge_down()
    for _ in range(50):
        with pytest.raises(Terminal):
            charge()

    with pytest.raises(NotLetThrough) as stopped:
        charge_down()
    assert stopped.value.code == "circuit_open"
    assert down.calls == 5
    assert charge() == "charged"


def test_more_calls_than_the_rate_allows_are_not_made() -> None:
    bank = Bank()
    charge = rate_limit(max_calls=3, period=MINUTE)(bank.charge)
    for _ in range(3):
        charge()

    with pytest.raises(NotLetThrough) as refused:
        charge()
    assert bank.calls == 3
    assert refused.value.retry_after is not None
    assert timedelta(seconds=50) < refused.value.retry_after <= MINUTE


@pytest.mark.parametrize(
    ("max_calls", "period"),
    [(0, MINUTE), (1, timedelta(0)), (1, timedelta(milliseconds=500)), (1, MINUTE * 1.005)],
)
def test_what_is_no_rate_of_whole_seconds_is_refused(max_calls: int, period: timedelta) -> None:
    with pytest.raises(DefinitionError):
        rate_limit(max_calls=max_calls, period=period)


def test_a_rate_lets_calls_through_while_its_redis_is_down() -> None:
    bank = Bank()
    charge = rate_limit(max_calls=1, period=MINUTE, url="redis://127.0.0.1:1")(bank.charge)

    assert [charge(), charge()] == ["charged", "charged"]


def test_a_call_costs_the_same_however_many_came_before_it() -> None:
    pay = circuit_breaker()(lambda: None)

    def seconds(count: int) -> float:
        began = time.thread_time()  # others may have the processor meanwhile
        for _ in range(count):
            pay()
        return time.thread_time() - began

    first = min(seconds(1_000) for _ in range(3))
    seconds(20_000)
    assert min(seconds(1_000) for _ in range(5)) < 10 * first


def test_two_functions_have_rates_of_their_own() -> None:
    one, other = Bank(), Bank()
    rate_limit(max_calls=1, period=MINUTE, name="one")(one.charge)()
    rate_limit(max_calls=1, period=MINUTE, name="other")(other.charge)()

    assert (one.calls, other.calls) == (1, 1)


def test_a_timed_call_is_told_however_it_ends() -> None:
    heard: list[dict[str, Any]] = []
    charge = timer(metric_name="charge")(Bank(ConnectionError()).charge)
    with observed(lambda event, fields: heard.append({"event": event, **fields})):
        with pytest.raises(ConnectionError):
            charge()
        charge()

    told = [(each["event"], each["metric"], each["succeeded"]) for each in heard]
    assert told == [("call.timed", "charge", False), ("call.timed", "charge", True)]
    assert all(each["seconds"] >= 0 for each in heard)


def test_logs_of_calls_show_values_only_if_asked_and_never_a_card_number() -> None:
    def pay(card: str) -> str:
        return f"paid with {card}"

    with capture_logs() as quiet:
        log_execution()(pay)(CARD)
    with capture_logs() as open_hearted:
        log_execution(log_args=True, log_result=True)(pay)(CARD)

    assert "paid" not in str(quiet)
    assert "paid with" in str(open_hearted)
    assert CARD not in str(open_hearted)


def test_a_call_that_is_repeated_shows_no_arguments() -> None:
    answers = iter([ConnectionError("once")])

    def pay(card: str) -> str:
        for error in answers:
            raise error
        return f"paid with {len(card)} digits"

    with capture_logs() as lines:
        retry(delay=0.001, exceptions=(ConnectionError,))(pay)(CARD)

    assert "ConnectionError" in str(lines)
    assert CARD not in str(lines)


def test_a_failure_is_logged_without_card_data_and_raised() -> None:
    def pay() -> None:
        raise ValueError(f"no money on {CARD}")

    with capture_logs() as lines, pytest.raises(ValueError, match="no money"):
        log_execution()(pay)()
    assert [each["event"] for each in lines] == ["call.started", "call.failed"]
    assert CARD not in str(lines)


async def coroutine() -> None: ...


def generator() -> Iterator[None]:
    yield


@pytest.mark.parametrize("function", [coroutine, generator])
@pytest.mark.parametrize(
    "decorator",
    [
        retry(exceptions=(ConnectionError,)),
        circuit_breaker(),
        rate_limit(max_calls=1, period=MINUTE),
        timer(),
        log_execution(),
    ],
    ids=["retry", "circuit_breaker", "rate_limit", "timer", "log_execution"],
)
def test_what_only_promises_a_result_is_refused(
    decorator: Callable[[Any], Any], function: Callable[..., Any]
) -> None:
    with pytest.raises(TypeError, match="coroutine or generator"):
        decorator(function)
