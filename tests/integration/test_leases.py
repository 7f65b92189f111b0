"""Leases against the database's clock: extended while they may be, and noticed when lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.errors import OutcomeUnknown, Retriable
from tests.histories import doing, saga
from tests.integration.engine import Engine, events, wait_until

SHOP = saga(doing("pay", timeout=timedelta(seconds=30)), doing("ship"))
HASTY = saga(doing("pay", timeout=timedelta(seconds=1)), name="hasty")
LEASE = timedelta(seconds=3)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP, HASTY, lease=LEASE)
    yield made
    made.close()


def claimed(engine: Engine, name: str = "shop", key: str = "order-1") -> Any:
    return engine.claim(engine.client.start(name, {"amount": 1}, key=key).id)


def left(engine: Engine) -> float:
    [(seconds,)] = engine.sql(
        "SELECT extract(epoch FROM lease_until - clock_timestamp())::float8 FROM amends.attempt"
    )
    return float(seconds)


def aged(engine: Engine, claim: Any, seconds: float) -> None:
    """Make a claim look that much older, here and in the database."""
    claim.lease.valid_until -= seconds
    engine.sql(
        "UPDATE amends.attempt SET lease_until = lease_until - make_interval(secs => :s)", s=seconds
    )


def test_a_young_lease_is_left_alone(engine: Engine) -> None:
    claimed(engine)
    before = left(engine)
    assert engine.coordinator.leases.extend() == 0
    assert left(engine) <= before


def test_a_lease_older_than_a_third_is_extended(engine: Engine) -> None:
    claim = claimed(engine)
    aged(engine, claim, 2)
    assert engine.coordinator.leases.extend() == 1
    assert left(engine) > 2.5
    assert claim.lease.valid_until <= claim.lease.ends_at


def test_many_leases_are_extended_together(engine: Engine) -> None:
    for number in range(20):
        claimed(engine, key=f"order-{number}").lease.valid_until -= 2
    engine.sql("UPDATE amends.attempt SET lease_until = lease_until - interval '2 s'")
    assert engine.coordinator.leases.extend() == 20


def test_a_lease_never_outlives_the_attempts_timeout(engine: Engine) -> None:
    claim = claimed(engine, "hasty")
    assert left(engine) <= 1
    for _ in range(3):
        claim.lease.valid_until -= 0.2
        engine.coordinator.leases.extend()
    assert left(engine) <= 1
    assert claim.lease.valid_until <= claim.lease.ends_at


def test_a_lost_lease_forbids_the_call_and_is_told_once(engine: Engine) -> None:
    claim = claimed(engine)
    engine.gives_up(claim)
    claim.lease.valid_until -= 2
    with events() as heard:
        engine.coordinator.leases.extend()
        engine.coordinator.leases.extend()
    assert [event for event, _ in heard].count("lease.lost") == 1
    context = engine.coordinator._context(claim, None)
    with pytest.raises(Retriable, match="send-by passed"):
        context.call_timeout(timedelta(seconds=1))


def test_a_lease_lost_after_something_was_sent_makes_the_outcome_unknown(engine: Engine) -> None:
    claim = claimed(engine)
    context = engine.coordinator._context(claim, None)
    assert context.call_timeout(timedelta(seconds=1)) == 1.0
    engine.gives_up(claim)
    claim.lease.valid_until -= 2
    engine.coordinator.leases.extend()
    with pytest.raises(OutcomeUnknown):
        context.call_timeout(timedelta(seconds=1))


def test_a_call_that_does_not_fit_before_the_timeout_is_not_sent(engine: Engine) -> None:
    context = engine.coordinator._context(claimed(engine), None)
    with pytest.raises(Retriable, match="send-by passed"):
        context.call_timeout(timedelta(seconds=31))


def test_a_finished_attempt_holds_nothing_and_lost_nothing(engine: Engine) -> None:
    claim = claimed(engine)
    engine.coordinator.execute(claim)
    assert engine.coordinator.leases.holdings == []


def test_the_next_attempt_in_place_is_held_before_it_begins(engine: Engine) -> None:
    following = engine.coordinator.execute(claimed(engine), lambda _queue: True)
    assert following is not None
    assert [each.attempt.step for each in engine.coordinator.leases.holdings] == ["ship"]
    following.lease.valid_until -= 2
    engine.sql("UPDATE amends.attempt SET lease_until = lease_until - interval '2 s'")
    assert engine.coordinator.leases.extend() == 1


def test_a_lease_kept_alive_outlives_its_length(engine: Engine, database: str) -> None:
    quick = Engine(database, SHOP, lease=timedelta(seconds=6))
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.1):
            quick.coordinator.leases.extend()

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        claim = claimed(quick)
        wait_until(lambda: claim.now() - claim.claimed_at > timedelta(seconds=7))
        assert left(quick) > 0
    finally:
        stop.set()
        thread.join()
        quick.close()
