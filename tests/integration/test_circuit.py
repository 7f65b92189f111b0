"""One circuit over all processes, on a real Valkey."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.guarding import Breaker, NotLetThrough, Request, Verdict
from steps.gateways.errors import NetworkError
from steps.gateways.outages import of_gateway
from tests.integration.engine import events
from tests.integration.shared_guards import (  # noqa: F401 - fixtures
    _is_patient,
    other_server,
    request,
    server,
)
from tests.worker_processes import until
from workers.resilience.circuit import Circuit, Entered, through
from workers.resilience.own_circuit import OwnCircuit
from workers.resilience.shared_server import SharedServer

BREAKER = Breaker(failures=3, within=timedelta(minutes=5), open_for=timedelta(minutes=1), share=0.5)
SOON = replace(BREAKER, open_for=timedelta(seconds=0.4))
OUTAGE, ANSWERED, NOTHING = Verdict.OUTAGE, Verdict.ANSWERED, Verdict.NOTHING


def ended(circuit: Circuit, verdicts: Iterable[Verdict], *, key: str | None = None) -> None:
    """One call after the other, each of another saga unless `key` says of which."""
    for number, verdict in enumerate(verdicts):
        circuit.leave(circuit.enter(request(key or f"saga-{number}")), verdict)


def may_be_tried(server: SharedServer) -> None:  # noqa: F811 - no fixture
    """Make it open for so long that the next call is the trial."""
    server.client.hset("tests:{circuit.bank}", "open_until", "0")


def trial(circuit: Circuit, *, asked: Request | None = None) -> Entered:
    """The next call, made when it may be tried."""
    may_be_tried(circuit._server)
    entered = circuit.enter(asked or request("trial"))
    assert entered.is_trial
    return entered


def is_let_through(circuit: Circuit) -> bool:
    try:
        return circuit.enter(request("later")).is_trial
    except NotLetThrough:
        return False


@pytest.fixture
def here(server: SharedServer) -> Circuit:  # noqa: F811 - the fixture
    return Circuit(server, "bank", BREAKER)


@pytest.fixture
def there(other_server: SharedServer) -> Circuit:  # noqa: F811 - the fixture
    return Circuit(other_server, "bank", BREAKER)


def test_outages_of_enough_sagas_open_it_for_every_process_once(
    here: Circuit, there: Circuit
) -> None:
    with events() as heard:
        ended(here, [OUTAGE, OUTAGE])
        there.leave(there.enter(request("another")), OUTAGE)

    assert [event for event, _ in heard] == ["circuit.opened"]
    with pytest.raises(NotLetThrough) as refused:
        here.enter(request())
    assert refused.value.code == "circuit_open"
    assert not refused.value.spends_budget


def test_answers_and_what_says_nothing_never_open_it(here: Circuit) -> None:
    ended(here, [ANSWERED] * 50)
    ended(here, [NOTHING] * 50)

    here.enter(request())


def test_one_saga_that_fails_again_and_again_opens_it_for_nobody(here: Circuit) -> None:
    ended(here, [OUTAGE] * 20, key="poor-saga")

    here.enter(request())


def test_a_few_outages_among_many_answers_open_nothing(here: Circuit) -> None:
    ended(here, [ANSWERED] * 50)
    ended(here, [OUTAGE] * 10)

    here.enter(request())


def test_outages_outside_the_window_are_forgotten(server: SharedServer) -> None:  # noqa: F811
    short = Circuit(server, "bank", Breaker(failures=3, within=timedelta(seconds=0.2), share=0.5))
    for number in range(6):  # never three of them in a window
        ended(short, [OUTAGE], key=f"saga-{number}")
        time.sleep(0.15)

    short.enter(request())


def test_they_come_back_spread_and_not_before_it_may_be_tried(here: Circuit) -> None:
    ended(here, [OUTAGE] * 3)
    moments = set()
    for number in range(50):
        with pytest.raises(NotLetThrough) as refused:
            here.enter(request(f"saga-{number}"))
        assert refused.value.retry_after is not None
        moments.add(round(refused.value.retry_after.total_seconds(), 3))

    assert len(moments) > 25
    assert min(moments) > 30
    assert max(moments) < 90 + 1


def test_of_many_callers_in_two_processes_exactly_one_is_the_trial(
    here: Circuit, there: Circuit
) -> None:
    ended(here, [OUTAGE] * 3)
    may_be_tried(here._server)

    def enter(number: int) -> Entered | None:
        try:
            return (here, there)[number % 2].enter(request(f"saga-{number}"))
        except NotLetThrough:
            return None

    with ThreadPoolExecutor(16) as threads:
        let_through = [each for each in threads.map(enter, range(200)) if each is not None]

    assert [each.is_trial for each in let_through] == [True]


def test_it_is_tried_when_its_time_is_over(server: SharedServer) -> None:  # noqa: F811
    soon = Circuit(server, "bank", SOON)
    ended(soon, [OUTAGE] * 3)

    until(lambda: is_let_through(soon))


def test_an_answered_trial_closes_it_and_a_failed_one_opens_it_again(
    here: Circuit, there: Circuit
) -> None:
    ended(here, [OUTAGE] * 3)
    with events() as heard:
        there.leave(trial(there), OUTAGE)
        with pytest.raises(NotLetThrough):
            here.enter(request())
        here.leave(trial(here), ANSWERED)

    assert [event for event, _ in heard] == ["circuit.trial_failed", "circuit.closed"]
    assert not there.enter(request()).is_trial


def test_a_trial_that_failed_without_effect_spends_no_budget_of_the_saga_that_made_it(
    here: Circuit,
) -> None:
    ended(here, [OUTAGE] * 3)
    may_be_tried(here._server)

    def down() -> None:
        raise NetworkError("refused")

    with pytest.raises(NetworkError) as failed:
        through(here, Breaker(judge=of_gateway), request(), down)
    assert not failed.value.spends_budget


def test_a_trial_that_says_nothing_leaves_the_next_one_free_at_once(here: Circuit) -> None:
    ended(here, [OUTAGE] * 3)
    here.leave(trial(here), NOTHING)

    assert here.enter(request()).is_trial


def test_a_killed_trial_keeps_nobody_out_for_longer_than_its_call_could_take(
    here: Circuit, there: Circuit
) -> None:
    ended(here, [OUTAGE] * 3)
    trial(here, asked=request("long", takes=600.0))
    with pytest.raises(NotLetThrough):
        there.enter(request())
    here._server.client.hdel("tests:{circuit.bank}", "trial", "trial_until")

    lost = trial(here, asked=request("lost", takes=0.1))
    until(lambda: is_let_through(there))  # the lease is over: its call and two seconds

    with events() as heard:
        here.leave(lost, ANSWERED)
    assert heard == []  # too late: it is no trial any more


def test_calls_from_before_it_opened_change_nothing_when_they_end(here: Circuit) -> None:
    early = [here.enter(request(f"early-{number}")) for number in range(4)]
    ended(here, [OUTAGE] * 4)
    state = here.state()

    with events() as heard:
        here.leave(early[0], OUTAGE)
        here.leave(early[1], ANSWERED)

    assert heard == []
    assert state is not None
    assert state.is_open
    with pytest.raises(NotLetThrough):
        here.enter(request())


def test_an_operator_sees_that_it_is_open_and_when_it_is_tried_next(here: Circuit) -> None:
    closed = here.state()
    ended(here, [OUTAGE] * 3)
    opened = here.state()

    assert closed is not None
    assert opened is not None
    assert (closed.is_open, opened.is_open) == (False, True)
    assert timedelta(0) < opened.next_trial <= BREAKER.open_for


def test_the_circuit_of_one_process_keeps_the_same_rules() -> None:
    own = OwnCircuit("bank", BREAKER)
    for number in range(50):
        own.leave(own.enter(request(f"declined-{number}")), ANSWERED)
    with events() as heard:
        for number in range(60):
            try:
                own.leave(own.enter(request(f"lost-{number}")), OUTAGE)
            except NotLetThrough:
                break
        own._open_until = time.monotonic()
        first = own.enter(request("trial"))
        with pytest.raises(NotLetThrough):
            own.enter(request("second"))
        own.leave(first, ANSWERED)

    assert first.is_trial
    assert [event for event, _ in heard] == ["circuit.opened", "circuit.closed"]
    assert not own.enter(request()).is_trial


def test_a_clock_that_was_set_back_keeps_it_open_no_longer_than_it_opens_for(
    server: SharedServer,  # noqa: F811 - the fixture
) -> None:
    soon = Circuit(server, "bank", SOON)
    ended(soon, [OUTAGE] * 3)
    open_until = float(server.client.hget("tests:{circuit.bank}", "open_until") or 0)
    server.client.hset("tests:{circuit.bank}", "open_until", str(int(open_until + 3600e6)))

    with pytest.raises(NotLetThrough) as refused:
        soon.enter(request())
    assert refused.value.retry_after is not None
    assert refused.value.retry_after <= SOON.open_for * 1.5
    until(lambda: is_let_through(soon))


def test_a_clock_that_was_set_back_keeps_a_killed_trials_place_no_longer_than_its_call(
    here: Circuit,
    server: SharedServer,  # noqa: F811 - the fixture
) -> None:
    ended(here, [OUTAGE] * 3)
    trial(here, asked=request("lost", takes=0.1))
    server.client.hincrby("tests:{circuit.bank}", "trial_until", 3600 * 10**6)

    with pytest.raises(NotLetThrough):
        here.enter(request())
    until(lambda: is_let_through(here))
