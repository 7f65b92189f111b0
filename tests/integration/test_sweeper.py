"""The sweep on a real Postgres: what is due comes first, and nothing that is wrong holds it up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import pytest

from orchestrator import outcomes
from orchestrator.definition import SagaDefinition
from orchestrator.doorbell import DoorbellError, Ring
from orchestrator.entries import UnknownReason
from orchestrator.errors import Wait
from orchestrator.seam import intercepted
from orchestrator.storage.attempts import BLIND_PATIENCE_SECONDS, LOOK_BATCH
from orchestrator.storage.database import Database
from orchestrator.storage.processes import Process, Processes
from orchestrator.storage.rows import Closing
from recovery import sweeper as sweeping
from recovery.sweep_loop import SweepLoop
from recovery.sweeper import Sweeper, SweepReport
from tests.histories import doing, saga
from tests.integration.engine import Bell, Engine, events, read_only, wait_until

LEASE = timedelta(seconds=0.3)
Make = Callable[..., Engine]


class DeadBell:
    """A broker that refuses, and does not say how many messages it holds."""

    def __init__(self) -> None:
        self.refused = 0

    def ring(self, rings: Sequence[Ring]) -> None:  # noqa: ARG002 - the protocol's signature
        self.refused += 1
        raise DoorbellError("down")

    def depth(self, queue: str) -> int | None:  # noqa: ARG002 - the protocol's signature
        return None


class BlindBell(Bell):
    """A broker that does not say how many messages it holds."""

    def depth(self, queue: str) -> int | None:  # noqa: ARG002 - the protocol's signature
        return None


class BrokenBell(Bell):
    """A broker's library that raises what nobody expects."""

    def ring(self, rings: Sequence[Ring]) -> None:  # noqa: ARG002 - the protocol's signature
        raise RuntimeError("a bug")


class SlowBell(Bell):
    """A broker that takes messages when a test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked, self.may_answer = threading.Event(), threading.Event()

    def ring(self, rings: Sequence[Ring]) -> None:
        self.is_asked.set()
        assert self.may_answer.wait(20)
        super().ring(rings)


@pytest.fixture
def make(database: str) -> Iterator[Make]:
    made: list[Engine] = []

    def build(*definitions: SagaDefinition[Any], lease: timedelta = LEASE) -> Engine:
        engine = Engine(database, *(definitions or (SHOP,)), lease=lease)
        made.append(engine)
        return engine

    yield build
    for each in made:
        each.close()


SHOP = saga(doing("pay"))


def sweeper(engine: Engine) -> Sweeper:
    return Sweeper(engine.coordinator, Database(engine.pool))


def start_many(engine: Engine, count: int) -> list[Any]:
    rows = [(f"order-{number}", {"amount": 1}) for number in range(count)]
    started = [each.id for each in engine.client.start_many("shop", rows)]  # type: ignore[union-attr]
    engine.bell.messages.clear()
    return started


def expire(engine: Engine) -> None:
    engine.sql(
        "UPDATE amends.attempt SET lease_until = clock_timestamp() - interval '1 s' "
        "WHERE token IS NOT NULL"
    )


def seconds_until(engine: Engine, column: str, table: str) -> float:
    """How far ahead the earliest moment of a column is."""
    [(seconds,)] = engine.sql(
        f"SELECT extract(epoch FROM min({column}) - clock_timestamp())::float8 FROM amends.{table}"  # noqa: S608 - a test's own names
    )
    return float(seconds)


# -- the loop --------------------------------------------------------------------------------------


class Loop:
    """A loop in a thread, and what it reported."""

    def __init__(self, engine: Engine) -> None:
        self.reports: list[SweepReport] = []
        self.loop = SweepLoop(
            sweeper(engine),
            Database(engine.pool),
            definitions=engine.coordinator.definitions,
            interval_seconds=0.1,
            on_report=self.reports.append,
        )
        self.thread = threading.Thread(target=self.loop.run, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.stop()
        self.thread.join(20)

    def reports_again(self) -> None:
        seen = len(self.reports)
        wait_until(lambda: len(self.reports) > seen)


def test_the_loop_outlives_a_server_that_became_read_only(make: Make, database: str) -> None:
    engine = make()
    with events() as heard, Loop(engine) as loop:
        loop.reports_again()
        with read_only(database):
            wait_until(lambda: "ReadOnly" in str(heard) or "read-only" in str(heard))
            assert loop.thread.is_alive()
        loop.reports_again()


def test_the_loop_outlives_what_nobody_expected(make: Make) -> None:
    engine = make()
    engine.coordinator.doorbell = BrokenBell()
    engine.client.start("shop", {"amount": 1}, key="order-1")
    engine.sql("UPDATE amends.attempt SET ring_at = clock_timestamp(), rung_count = 0")
    with events() as heard, Loop(engine) as loop:
        wait_until(lambda: "RuntimeError: a bug" in str(heard))
        engine.coordinator.doorbell = engine.bell
        loop.reports_again()


# -- looking ---------------------------------------------------------------------------------------


def test_a_saga_in_order_is_looked_at_once_however_many_sweepers_begin(make: Make) -> None:
    def wait(_context: Any) -> None:
        raise Wait("answer", datetime.now(UTC) + timedelta(hours=1))

    engine = make(saga(doing("pay", run=wait)))
    for number in range(3):
        engine.client.start("shop", {"amount": 1}, key=f"order-{number}")
    engine.work()
    engine.sql("UPDATE amends.saga SET due_at = clock_timestamp()")
    assert [sweeper(engine).run_once().looked for _ in range(3)] == [3, 0, 0]


def test_a_mass_of_due_sagas_does_not_delay_a_take_over(make: Make) -> None:
    engine = make()
    [victim, *_] = start_many(engine, 1500)
    engine.sql("UPDATE amends.saga SET due_at = clock_timestamp() WHERE id <> :v", v=victim)
    engine.claim(victim)  # its worker dies now, and its lease ends while others are looked at
    assert sweeper(engine).run_once().taken_over == 1


def test_a_sweep_looks_only_for_so_long(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "PASS_SECONDS", 0.0)
    engine = make()
    start_many(engine, 3 * LOOK_BATCH)
    engine.sql("UPDATE amends.saga SET due_at = clock_timestamp()")
    one = sweeper(engine)
    looked = [(one.run_once().looked, one.has_more) for _ in range(3)]
    assert looked == [(1, True)] * 3
    assert one.run_once().looked == 0  # what was left of them comes due again by itself


class PatientBell(Bell):
    """A broker that takes its time, in which something else may happen."""

    def __init__(self, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._seconds, self._meanwhile = seconds, meanwhile

    def ring(self, rings: Sequence[Ring]) -> None:
        time.sleep(self._seconds)
        self._meanwhile()
        super().ring(rings)

    def depth(self, queue: str) -> int | None:  # noqa: ARG002 - the protocol's signature
        return 0


@pytest.mark.parametrize("rung_count", [0, 1])
def test_a_flood_of_due_attempts_is_rung_for_a_while_at_a_time(
    make: Make, monkeypatch: pytest.MonkeyPatch, rung_count: int
) -> None:
    monkeypatch.setattr(sweeping, "BATCH", 10)
    monkeypatch.setattr(sweeping, "PASS_SECONDS", 0.3)
    engine = make()
    start_many(engine, 100)
    engine.sql("UPDATE amends.attempt SET ring_at = due_at, rung_count = :n", n=rung_count)
    engine.coordinator.doorbell = bell = PatientBell(0.1)
    one, longest = sweeper(engine), 0.0
    for _ in range(20):
        began = time.monotonic()
        one.run_once()
        longest = max(longest, time.monotonic() - began)
        if not one.has_more:
            break
    assert len({each.saga_id for each in bell.messages}) == len(bell.messages) == 100
    assert longest < 1.0  # all at once it is more than one second of ringing


@pytest.mark.parametrize("rung_count", [0, 1])
def test_a_flood_of_due_attempts_does_not_delay_a_take_over(
    make: Make, monkeypatch: pytest.MonkeyPatch, rung_count: int
) -> None:
    monkeypatch.setattr(sweeping, "LONG_PASS_SECONDS", 0.0)
    engine = make()
    victim, *_ = start_many(engine, 20)
    engine.claim(victim)
    engine.sql(
        "UPDATE amends.attempt SET ring_at = due_at, rung_count = :n WHERE token IS NULL",
        n=rung_count,
    )
    engine.coordinator.doorbell = PatientBell(0.0, meanwhile=lambda: expire(engine))
    assert sweeper(engine).run_once().taken_over == 1


def test_a_backlog_is_worked_off_without_waiting_for_the_next_sweep(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "BATCH", 10)
    monkeypatch.setattr(sweeping, "PASS_SECONDS", 0.0)
    engine = make()
    start_many(engine, 50)
    engine.sql("UPDATE amends.attempt SET ring_at = due_at, rung_count = 1")
    engine.coordinator.doorbell = bell = PatientBell(0.0)
    loop = looping(engine, interval_seconds=3600)
    for _ in range(8):
        assert loop.tick() < 10 or len(bell.messages) == 50
    assert len(bell.messages) == 50


def looping(engine: Engine, *, interval_seconds: float) -> SweepLoop:
    return SweepLoop(
        sweeper(engine),
        Database(engine.pool),
        definitions=engine.coordinator.definitions,
        interval_seconds=interval_seconds,
        on_report=lambda _: None,
    )


def test_sagas_started_together_are_not_due_together(make: Make) -> None:
    engine = make()
    start_many(engine, 100)
    [(moments,)] = engine.sql(
        "SELECT count(DISTINCT date_trunc('second', due_at)) FROM amends.saga"
    )
    assert moments > 50


def test_a_sweeper_that_sweeps_is_not_started_twice(make: Make) -> None:
    engine, bell = make(), SlowBell()
    engine.coordinator.doorbell = bell
    ids = start_many(engine, 2)
    due = "UPDATE amends.attempt SET ring_at = clock_timestamp(), rung_count = 0 WHERE saga_id = :s"
    engine.sql(due, s=ids[0])
    one = sweeper(engine)
    thread = threading.Thread(target=one.run_once)
    thread.start()
    try:
        assert bell.is_asked.wait(20)
        engine.sql(due, s=ids[1])
        assert one.run_once().is_quiet
    finally:
        bell.may_answer.set()
        thread.join(20)
    one.run_once()
    assert len(bell.messages) == 2


# -- sagas of others -------------------------------------------------------------------------------


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_saga_is_put_off_only_while_nobody_who_knows_it_is_alive(
    make: Make, is_seen: bool
) -> None:
    old, new = saga(doing("book")), saga(doing("pay"), version=2)
    knowing, foreign = make(old, new), make(old)
    if is_seen:
        Processes(Database(knowing.pool)).seen(
            Process(
                owner="other",
                kind="worker-threads",
                queues=(),
                definition_hashes=knowing.coordinator.definitions.hashes,
                amends_version="1",
            )
        )
    saga_id = knowing.client.start(new, {"amount": 1}, key="order-1").id
    claim = knowing.claim(saga_id)
    knowing.coordinator.log.append_outcome(
        Closing(id=claim.attempt, token=claim.token),
        outcomes.succeeded(claim.step, "forward", 1, None),
    )  # the saga is due now, and whoever was to decide died
    assert sweeper(foreign).run_once().foreign == (0 if is_seen else 1)
    assert sweeper(knowing).run_once().looked == 1
    assert knowing.client.get(saga_id).state == "completed"


# -- the broker ------------------------------------------------------------------------------------


def test_a_silent_broker_costs_a_sweep_one_refusal(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "BATCH", 2)
    engine, bell = make(), DeadBell()
    for saga_id in start_many(engine, 6):
        engine.claim(saga_id)
    expire(engine)
    engine.coordinator.doorbell = bell
    one = sweeper(engine)
    assert one.run_once().taken_over == 6
    assert bell.refused == 1
    engine.sql("UPDATE amends.attempt SET ring_at = clock_timestamp()")
    one.ring_due()
    assert bell.refused == 1


def test_take_overs_are_rung_for_together(make: Make) -> None:
    engine = make()
    for saga_id in start_many(engine, 6):
        engine.claim(saga_id)
    expire(engine)
    published: list[str] = []

    def count(name: str, action: Callable[[], Any]) -> Any:
        published.append(name)
        return action()

    with intercepted(count):
        report = sweeper(engine).run_once()
    assert (report.taken_over, report.rung) == (6, 6)
    assert published.count("ring.publish") == 1
    assert len(engine.bell.messages) == 6


def test_a_process_at_its_end_gives_up_without_waiting_for_the_broker(make: Make) -> None:
    engine = make()
    [saga_id] = start_many(engine, 1)
    claim = engine.claim(saga_id)
    assert engine.gives_up(claim, UnknownReason.DRAINED)
    assert not engine.bell.messages
    assert sweeper(engine).run_once().rung == 1


class Died(BaseException):
    """The process is gone."""


def test_a_sweeper_that_dies_before_it_published_costs_one_sweep(make: Make) -> None:
    def die(name: str, action: Callable[[], Any]) -> Any:
        if name == "ring.publish":
            raise Died
        return action()

    engine = make()
    start_many(engine, 1)
    engine.sql("UPDATE amends.attempt SET ring_at = clock_timestamp()")
    engine.coordinator.doorbell = BlindBell()
    with intercepted(die), pytest.raises(Died):
        sweeper(engine).run_once()
    assert seconds_until(engine, "ring_at", "attempt") < 20


def test_no_ring_is_trusted_for_longer_than_thirty_seconds(make: Make) -> None:
    engine = make()
    start_many(engine, 1)
    engine.sql("UPDATE amends.attempt SET ring_at = clock_timestamp()")
    engine.coordinator.doorbell = BlindBell()
    assert sweeper(engine).run_once().rung_again == 1
    assert 15 < seconds_until(engine, "ring_at", "attempt") <= BLIND_PATIENCE_SECONDS <= 30


def test_messages_for_other_deployments_sagas_do_not_pass_for_ours(make: Make) -> None:
    other = saga(doing("pay"), version=2)
    everything, ours = make(SHOP, other), make()
    for number in range(3):
        everything.client.start(other, {"amount": 1}, key=f"other-{number}")
    ours.bell.messages.extend(everything.bell.messages)  # in the same queue
    start = ours.client.start(SHOP, {"amount": 1}, key="order-1")
    ours.bell.messages.pop()  # lost
    everything.sql("UPDATE amends.attempt SET ring_at = clock_timestamp()")
    assert sweeper(ours).run_once().rung_again == 1
    assert ours.bell.messages[-1].saga_id == start.id


# -- logs that cannot be read ----------------------------------------------------------------------


def unreadable(engine: Engine, ids: Sequence[Any]) -> None:
    """Let somebody have written what is no entry into these logs, and the claims be lost."""
    engine.sql(
        "INSERT INTO amends.saga_log (saga_id, seq, kind, data) "
        "SELECT id, 2, 'NoteAdded', '{}' FROM amends.saga WHERE id = ANY(:ids)",
        ids=list(ids),
    )
    engine.sql("UPDATE amends.saga SET seq = 2 WHERE id = ANY(:ids)", ids=list(ids))
    engine.sql(
        "UPDATE amends.attempt SET token = gen_random_uuid(), owner = 'newer', "
        "lease_until = clock_timestamp() - interval '1 minute', timeout_at = clock_timestamp() "
        "WHERE saga_id = ANY(:ids)",
        ids=list(ids),
    )


def test_unreadable_sagas_do_not_keep_others_from_being_taken_over(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "BATCH", 5)
    engine = make()
    *newer, victim = start_many(engine, 13)
    engine.claim(victim)
    expire(engine)
    unreadable(engine, newer)
    assert sweeper(engine).run_once().taken_over == 1


def test_an_unreadable_saga_is_told_of_once(make: Make) -> None:
    engine = make()
    unreadable(engine, start_many(engine, 1))
    one = sweeper(engine)
    with events() as heard:
        for _ in range(3):
            engine.sql("UPDATE amends.saga SET due_at = clock_timestamp()")
            one.run_once()
    assert [event for event, _ in heard].count("saga.set_aside") == 1
