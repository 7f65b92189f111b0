"""One rate over all processes, on a real Valkey: never exceeded, and used under a backlog."""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import cast

import pytest

from orchestrator.errors import DefinitionError
from orchestrator.guarding import NotLetThrough, Rate
from tests.deployment import measured
from tests.integration.shared_guards import (  # noqa: F401 - fixtures
    _is_patient,
    other_server,
    request,
    server,
)
from workers.resilience.shared_rate import SharedRate
from workers.resilience.shared_server import SharedServer

MINUTE = timedelta(minutes=1)
LATENESS = (0.005, 0.03)
"""How much later than its moment an attempt is rung, in seconds."""


class Backlog:
    """Callers that come back when they were told to, in threads of two processes' limiters.

    `requests` is how many each sends per attempt; one that is refused begins anew.
    """

    def __init__(self, rates: list[SharedRate], callers: int, requests: int = 1) -> None:
        self.arrived: list[float] = []
        self.finished: list[int] = []
        self.refused = 0
        self._rates, self._callers, self._requests = rates, callers, requests
        self._due = [(0.0, number) for number in range(callers)]
        self._lock = threading.Lock()

    def run(self, seconds: float, *, travel: float = 0.005) -> None:
        until = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._work, args=(rate, until, travel))
            for rate in self._rates * 4
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        self.arrived.sort()

    def most_in(self, window: float) -> int:
        """The most arrivals in any window of that length."""
        return max(
            sum(each <= later < each + window for later in self.arrived) for each in self.arrived
        )

    def _work(self, rate: SharedRate, until: float, travel: float) -> None:
        while time.monotonic() < until and len(self.finished) < self._callers:
            number = self._next()
            if number is None:
                time.sleep(0.002)
                continue
            try:
                for each in range(1, self._requests + 1):
                    wanted = request(f"caller-{number}", each)
                    slot = rate.take(wanted)
                    time.sleep(travel * random.uniform(0, 1))  # noqa: S311 - a way, not a secret
                    self.arrived.append(time.monotonic())
                    rate.landed(slot, wanted)
            except NotLetThrough as error:
                self._put_off(number, (error.retry_after or timedelta(0)).total_seconds())
            else:
                self.finished.append(number)

    def _next(self) -> int | None:
        with self._lock:
            if not self._due or self._due[0][0] > time.monotonic():
                return None
            return heapq.heappop(self._due)[1]

    def _put_off(self, number: int, seconds: float) -> None:
        late = random.uniform(*LATENESS)  # noqa: S311 - likewise
        with self._lock:
            self.refused += 1
            heapq.heappush(self._due, (time.monotonic() + seconds + late, number))


@pytest.fixture
def rates(server: SharedServer, other_server: SharedServer) -> list[SharedRate]:  # noqa: F811
    """Slow enough that a test is over before a slot is free by itself: `pass_by` lets time pass."""
    return [SharedRate(each, "bank", Rate(20, per=MINUTE)) for each in (server, other_server)]


def pass_by(server: SharedServer, seconds: float) -> None:  # noqa: F811 - no fixture
    """Make everything that Redis remembers so much older."""
    for kind in ("", ".promised", ".under_way"):
        key = f"tests:{{rate.bank}}{kind}"
        for name in cast("list[bytes]", server.client.zrange(key, 0, -1)):
            server.client.zincrby(key, -seconds * 10**6, name)


def backlogs(
    servers: list[SharedServer], callers: int, seconds: float, requests: int = 1
) -> Iterator[Backlog]:
    """The same backlog again and again: on a busy machine callers cannot always be in time."""
    for number in range(8):
        rates = [SharedRate(each, f"bank-{number}", Rate(20)) for each in servers]
        backlog = Backlog(rates, callers, requests)
        backlog.run(seconds)
        assert backlog.most_in(1.0) <= 20
        yield backlog


def test_a_backlog_uses_the_rate_and_never_exceeds_it(
    server: SharedServer,  # noqa: F811
    other_server: SharedServer,  # noqa: F811
) -> None:
    for backlog in backlogs([server, other_server], callers=300, seconds=6.0):
        use = len(backlog.arrived) / (20 * 6)
        measured(f"{use:.0%} of the rate, {backlog.refused / 300:.2f} refusals per caller")
        if use >= 0.9 and backlog.refused < 2 * 300:  # nobody comes again and again
            return
    pytest.fail("it was never used well")


def test_requests_that_travel_slowly_are_counted_where_they_arrive(
    server: SharedServer,  # noqa: F811
    other_server: SharedServer,  # noqa: F811
) -> None:
    """Some arrive at once and some half a window late: together they are still no crowd."""
    rates = [SharedRate(each, "bank", Rate(20)) for each in (server, other_server)]
    backlog = Backlog(rates, callers=200)
    backlog.run(6.0, travel=0.5)

    assert backlog.most_in(1.0) <= 20


def test_a_request_keeps_its_slot_until_a_window_after_its_answer(
    rates: list[SharedRate],
    server: SharedServer,  # noqa: F811
) -> None:
    slow = request("slow")
    slots = [rates[0].take(slow) for _ in range(20)]
    pass_by(server, 80)  # a window and more
    with pytest.raises(NotLetThrough):
        rates[1].take(request("early"))
    for each in slots:
        rates[0].landed(each, slow)
    pass_by(server, 20)
    with pytest.raises(NotLetThrough):
        rates[1].take(request("earlier"))
    pass_by(server, 50)
    rates[1].take(request("early"))


def test_a_request_whose_worker_died_counts_as_long_as_it_could_have_been_under_way(
    rates: list[SharedRate],
    server: SharedServer,  # noqa: F811
) -> None:
    for number in range(20):
        rates[0].take(request(f"lost-{number}", takes=90))
    pass_by(server, 95)  # given up, and a window has not passed since
    with pytest.raises(NotLetThrough):
        rates[1].take(request("next"))
    pass_by(server, 60)
    rates[1].take(request("next"))


def test_those_who_send_two_requests_keep_both_their_slots(
    server: SharedServer,  # noqa: F811
    other_server: SharedServer,  # noqa: F811
) -> None:
    for backlog in backlogs([server, other_server], callers=40, seconds=8.0, requests=2):
        are_through = sorted(backlog.finished) == list(range(40))
        if are_through and len(backlog.arrived) <= 3 * 40:  # one of them again, at most
            return
    pytest.fail("they were never all through")


def test_who_was_promised_a_slot_goes_before_who_comes_new(
    rates: list[SharedRate],
    server: SharedServer,  # noqa: F811
) -> None:
    for number in range(20):
        wanted = request(f"first-{number}")
        rates[0].landed(rates[0].take(wanted), wanted)
    for number in range(20):
        with pytest.raises(NotLetThrough) as promised:
            rates[0].take(request(f"promised-{number}"))
        assert promised.value.is_exact
    pass_by(server, 66)  # all slots are free, and all are spoken for

    for number in range(20):
        with pytest.raises(NotLetThrough):
            rates[1].take(request(f"new-{number}"))
    rates[0].take(request("promised-0"))


def test_refused_callers_are_told_moments_of_their_own(
    server: SharedServer,  # noqa: F811
    other_server: SharedServer,  # noqa: F811
) -> None:
    hourly = Rate(20, per=timedelta(hours=1))
    rates = [SharedRate(each, "bank", hourly) for each in (server, other_server)]
    for number in range(20):
        rates[0].take(request(f"first-{number}"))
    moments = []
    for number in range(40):
        with pytest.raises(NotLetThrough) as refused:
            rates[number % 2].take(request(f"late-{number}"))
        assert refused.value.retry_after is not None
        moments.append(refused.value.retry_after + timedelta(seconds=time.monotonic()))

    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert min(gaps) > timedelta(minutes=2)  # three each, and no herd


def test_a_slot_that_is_given_back_is_free_at_once(rates: list[SharedRate]) -> None:
    slots = [rates[0].take(request(f"first-{number}")) for number in range(20)]
    with pytest.raises(NotLetThrough):
        rates[1].take(request("second"))
    rates[0].give_back(slots[0])
    rates[0].give_back(slots[1])

    rates[1].take(request("third"))  # one slot is the second's, the other is free


def test_a_clock_that_was_set_back_lets_no_more_through_and_keeps_nobody_waiting_for_it(
    server: SharedServer,  # noqa: F811 - the fixture
) -> None:
    rate = SharedRate(server, "bank", Rate(2, per=MINUTE))
    answered = request("answered")
    rate.landed(rate.take(answered), answered)
    rate.take(request("lost", takes=20))
    _remember_an_hour_later(server, "tests:{rate.bank}")

    with pytest.raises(NotLetThrough):
        rate.take(request("after"))
    pass_by(server, 90)
    rate.take(request("after"))
    rate.take(request("another"))


def _remember_an_hour_later(server: SharedServer, base: str) -> None:  # noqa: F811 - no fixture
    """What Redis would hold if its clock had been an hour ahead until now."""
    hour = 3600 * 10**6
    for key in (base, f"{base}.under_way"):
        for name in cast("list[bytes]", server.client.zrange(key, 0, -1)):
            server.client.zincrby(key, hour, name)
    server.client.hincrby(f"{base}.clock", "last", hour)


def test_an_attempt_of_more_requests_than_a_window_has_slots_is_refused_for_good(
    server: SharedServer,  # noqa: F811 - the fixture
) -> None:
    """Put off, it would send its first request again in every window, and never the second."""
    rate = SharedRate(server, "bank", Rate(1))
    rate.take(request("undo"))

    with pytest.raises(DefinitionError, match="2 requests"):
        rate.take(request("undo", 2))
