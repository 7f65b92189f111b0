"""Alerts on a real Postgres: raised once, taken once per due time, over when their reason is."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy

from orchestrator.context import Effect, Movement
from orchestrator.definition import Retry
from orchestrator.entries import Recorded, SagaUnparked, StepSucceeded
from orchestrator.errors import LogUnavailableError, OutcomeUnknown, Terminal
from orchestrator.state import State
from orchestrator.storage.alert_statements import MOVED_ON
from orchestrator.storage.alerts import Alert, AlertKind, Alerts
from orchestrator.storage.database import Database
from orchestrator.storage.processes import Processes
from orchestrator.storage.rows import Closing
from orchestrator.storage.saga_log import SagaLog
from recovery.alerts import unknowns
from recovery.alerts.loop import AlertLoop
from recovery.alerts.notifier import AlertReport, Notifier
from recovery.alerts.sinks import NotSentError, Sink
from recovery.sweep_loop import sweeper_process
from tests.histories import doing, saga
from tests.integration.engine import Engine, events, read_only, wait_until

PATIENCE = 30.0
AGE = 900.0


def hold(_: Any) -> Effect:
    return Effect(
        reference="p1", movements=[Movement(kind="authorize", amount_minor=1990, currency="EUR")]
    )


def refuse(_: Any) -> None:
    raise Terminal("no", decisive=True)


def lose(_: Any) -> None:
    raise OutcomeUnknown("no answer")


SELDOM = Retry(max_attempts=5, base=timedelta(hours=1), cap=timedelta(hours=1))
HELD = saga(doing("pay", run=hold, compensation=refuse), doing("ship", run=refuse), name="held")
LOST = saga(doing("pay", run=lose, retry=SELDOM))
FINE = saga(doing("pay"), name="fine")


class Inbox:
    """A sink that keeps what it is given, and refuses while it is told to."""

    def __init__(self) -> None:
        self.ids: list[UUID] = []
        self.error: str | None = None

    def send(self, alert_id: UUID, body: str) -> None:  # noqa: ARG002 - the protocol's signature
        self.ids.append(alert_id)
        if self.error is not None:
            raise NotSentError(self.error)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, HELD, LOST, FINE)
    yield made
    made.close()


@pytest.fixture
def alerts(engine: Engine) -> Alerts:
    return Alerts(Database(engine.pool))


def notifier(engine: Engine, *sinks: Sink, patience: float = PATIENCE) -> Notifier:
    return Notifier(Database(engine.pool), sinks, patience_seconds=patience, unknown_seconds=AGE)


def watchful(engine: Engine, *sinks: Sink) -> Notifier:
    """A notifier that has watched for long enough to judge silence."""
    made = notifier(engine, *sinks)
    made.run_once()
    made._watches_since -= PATIENCE
    return made


def park(engine: Engine, key: str = "order-1") -> UUID:
    saga_id = engine.client.start("held", {"amount": 1}, key=key).id
    assert engine.finish(saga_id) == State.FAILED_COMPENSATION
    return saga_id


def unpark(engine: Engine, saga_id: UUID) -> None:
    fact = SagaUnparked(by="ada", fresh=["pay"])
    assert engine.coordinator.log.append_fact(saga_id, fact, [State.FAILED_COMPENSATION])
    engine.coordinator.mover.look(saga_id)


def make_due(engine: Engine) -> None:
    engine.sql("UPDATE amends.alert SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")


def at_once(count: int, work: Callable[[], object]) -> None:
    barrier = threading.Barrier(count)

    def run() -> None:
        barrier.wait()
        work()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)


# -- parked sagas ----------------------------------------------------------------------------------


def test_a_parked_saga_is_told_of_once(engine: Engine, alerts: Alerts) -> None:
    saga_id = park(engine)
    [alert] = alerts.raise_parked()
    assert (alert.kind, alert.saga_id) == (AlertKind.SAGA_PARKED, saga_id)
    assert alert.data["question"]
    assert {k: alert.data[k] for k in ("saga", "key", "state", "reason", "steps")} == {
        "saga": "held",
        "key": "order-1",
        "state": "failed_compensation",
        "reason": "compensation_exhausted",
        "steps": ["pay"],
    }
    assert alerts.raise_parked() == alerts.close_parked() == []


def test_many_notifiers_raise_an_alert_once(engine: Engine, alerts: Alerts) -> None:
    for number in range(20):
        park(engine, f"order-{number}")
    raised: list[Alert] = []
    at_once(4, lambda: raised.extend(alerts.raise_parked()))
    assert len(raised) == len({each.about for each in raised}) == 20


def test_a_saga_that_moves_on_is_not_told_of_any_more(engine: Engine, alerts: Alerts) -> None:
    saga_id = park(engine)
    [raised] = alerts.raise_parked()
    unpark(engine, saga_id)
    [closed] = alerts.close_parked()
    assert (closed.id, closed.closed_by, closed.due_at) == (raised.id, MOVED_ON, None)
    make_due(engine)
    assert alerts.take() is None


def test_parking_again_is_another_alert(engine: Engine, alerts: Alerts) -> None:
    saga_id = park(engine)
    [first] = alerts.raise_parked()
    unpark(engine, saga_id)
    assert engine.finish(saga_id) == State.FAILED_COMPENSATION  # before anybody looked
    [second] = alerts.raise_parked()
    assert second.about != first.about
    assert [each.id for each in alerts.close_parked()] == [first.id]


def test_a_saga_that_was_closed_is_not_told_of_any_more(engine: Engine, alerts: Alerts) -> None:
    park(engine)
    alerts.raise_parked()
    engine.sql("UPDATE amends.saga SET state = 'resolved', due_at = NULL")
    assert len(alerts.close_parked()) == 1


def test_acknowledged_means_silence_until_it_parks_again(engine: Engine, alerts: Alerts) -> None:
    saga_id = park(engine)
    [alert] = alerts.raise_parked()
    closed = alerts.acknowledge(alert.id, actor="ada", reason="on it")
    assert closed is not None
    assert (closed.closed_by, closed.data["acknowledged"]) == ("ada", "on it")
    assert alerts.acknowledge(alert.id, actor="bob", reason="me too") is None
    make_due(engine)
    assert alerts.raise_parked() == []
    assert alerts.take() is None
    unpark(engine, saga_id)
    engine.finish(saga_id)
    assert len(alerts.raise_parked()) == 1


def test_a_later_look_finds_what_has_changed_since(engine: Engine) -> None:
    one = notifier(engine)
    assert one.run_once() == AlertReport()
    saga_id = park(engine)
    assert one.run_once() == AlertReport(raised=1)
    unpark(engine, saga_id)
    assert engine.finish(saga_id) == State.FAILED_COMPENSATION
    assert one.run_once() == AlertReport(raised=1, closed=1)


def test_now_and_then_everything_is_looked_at(engine: Engine) -> None:
    one = notifier(engine)
    one.run_once()
    park(engine)
    engine.sql("UPDATE amends.saga SET updated_at = clock_timestamp() - interval '1 h'")
    assert one.run_once() == AlertReport()
    one._parked._next_whole_look = 0.0
    assert one.run_once() == AlertReport(raised=1)


def test_a_mass_of_parked_sagas_is_told_of_bit_by_bit(engine: Engine) -> None:
    park(engine)
    columns = "definition, version, definition_hash, fingerprint, state, seq, due_at, attributes"
    engine.sql(
        "WITH more AS ("  # noqa: S608 - a test's own names
        f"  INSERT INTO amends.saga (id, key, {columns})"
        f"  SELECT gen_random_uuid(), 'copy-' || n, {columns}"
        "  FROM amends.saga, generate_series(1, 1199) n RETURNING id) "
        "INSERT INTO amends.saga_log (saga_id, seq, kind, data) SELECT more.id, l.seq, kind, data "
        "FROM more, amends.saga_log l WHERE l.kind = 'SagaParked'"
    )
    engine.sql("UPDATE amends.saga SET updated_at = clock_timestamp() - interval '1 h'")
    one = notifier(engine)
    assert [one.run_once().raised for _ in range(3)] == [1000, 200, 0]


# -- sending ---------------------------------------------------------------------------------------


def pauses(engine: Engine, alerts: Alerts, count: int) -> list[float]:
    """The pauses that so many takings leave behind, in seconds."""
    found = []
    for _ in range(count):
        make_due(engine)
        assert alerts.take() is not None
        [(pause,)] = engine.sql(
            "SELECT extract(epoch FROM due_at - clock_timestamp())::float8 FROM amends.alert"
        )
        found.append(round(pause))
    return found


def test_the_pauses_double_up_to_six_hours(engine: Engine, alerts: Alerts) -> None:
    park(engine)
    alerts.raise_parked()
    expected = [60 * 2**n for n in range(9)]
    assert pauses(engine, alerts, 12) == pytest.approx([*expected, *[21_600] * 3], abs=2)


def test_what_was_taken_is_not_due_before_its_pause(engine: Engine, alerts: Alerts) -> None:
    park(engine)
    alerts.raise_parked()
    assert alerts.take() is not None
    assert alerts.take() is None


def test_many_notifiers_send_each_alert_once_per_due_time(engine: Engine) -> None:
    for number in range(20):
        park(engine, f"order-{number}")
    inbox = Inbox()
    notifiers = [notifier(engine, inbox) for _ in range(4)]
    for _round in range(3):
        make_due(engine)
        waiting = iter(notifiers)
        at_once(4, lambda waiting=waiting: next(waiting).run_once())  # type: ignore[misc]
    counts = Counter(inbox.ids)
    assert len(counts) == 20
    assert set(counts.values()) == {3}


def test_a_sender_that_died_is_followed_by_another(engine: Engine, alerts: Alerts) -> None:
    park(engine)
    alerts.raise_parked()
    taken = alerts.take()  # and its process dies
    assert taken is not None
    make_due(engine)
    inbox = Inbox()
    assert notifier(engine, inbox).run_once().sent == 1
    assert inbox.ids == [taken.id]


def test_what_could_not_be_sent_says_why_and_is_sent_later(engine: Engine, alerts: Alerts) -> None:
    park(engine)
    inbox = Inbox()
    inbox.error = "no"
    one = notifier(engine, inbox)
    assert one.run_once() == AlertReport(raised=1, not_sent=1)
    [alert] = alerts.find(closed_too=False, limit=10)
    assert (alert.last_error, alert.sent_at, alert.send_count) == ("no", None, 1)
    inbox.error = None
    make_due(engine)
    assert one.run_once() == AlertReport(sent=1)
    [alert] = alerts.find(closed_too=False, limit=10)
    assert (alert.last_error, alert.send_count) == (None, 2)
    assert alert.sent_at is not None


def test_an_alert_that_cannot_be_told_does_not_keep_back_the_others(engine: Engine) -> None:
    park(engine, "order-1")
    park(engine, "order-2")
    inbox = Inbox()
    one = notifier(engine, inbox)
    notifier(engine).run_once()
    engine.sql(
        "UPDATE amends.alert SET data = '{}', due_at = clock_timestamp() - interval '1 hour' "
        "WHERE id = (SELECT id FROM amends.alert ORDER BY due_at LIMIT 1)"
    )
    report = one.run_once()
    assert (report.sent, report.not_sent) == (1, 1)


def test_a_sink_that_refuses_is_not_asked_for_the_rest_at_once(engine: Engine) -> None:
    for number in range(3):
        park(engine, f"order-{number}")
    inbox = Inbox()
    inbox.error = "no"
    one = notifier(engine, inbox)
    assert one.run_once() == AlertReport(raised=3, not_sent=1)
    inbox.error = None
    assert one.run_once() == AlertReport(sent=2)


def test_one_sink_that_refuses_does_not_keep_it_from_the_other(
    engine: Engine, alerts: Alerts
) -> None:
    park(engine)
    broken, working = Inbox(), Inbox()
    broken.error = "no"
    assert notifier(engine, broken, working).run_once().not_sent == 1
    assert len(working.ids) == 1
    [alert] = alerts.find(closed_too=False, limit=10)
    assert alert.last_error == "no"


def test_a_slow_sender_does_not_overwrite_what_a_later_one_noted(
    engine: Engine, alerts: Alerts
) -> None:
    park(engine)
    alerts.raise_parked()
    slow = alerts.take()
    make_due(engine)
    later = alerts.take()
    assert slow is not None
    assert later is not None
    alerts.note(later, None)
    alerts.note(slow, "timed out")
    [alert] = alerts.find(closed_too=False, limit=10)
    assert alert.last_error is None


def test_an_alert_of_a_newer_version_is_left_to_it(engine: Engine, alerts: Alerts) -> None:
    park(engine)
    alerts.raise_parked()
    engine.sql("UPDATE amends.alert SET kind = 'moon_is_full'")
    assert alerts.take() is None


def test_without_a_sink_alerts_are_rows_and_log_lines(engine: Engine, alerts: Alerts) -> None:
    saga_id = park(engine)
    with events() as heard:
        assert notifier(engine).run_once() == AlertReport(raised=1)
    [fields] = [fields for event, fields in heard if event == "alert.raised"]
    assert (fields["saga_id"], fields["key"]) == (saga_id, "order-1")
    [alert] = alerts.find(closed_too=False, limit=10)
    assert alert.send_count == 0
    assert notifier(engine, Inbox()).run_once() == AlertReport(sent=1)  # once there is one


# -- unknown for too long --------------------------------------------------------------------------


def lost_for(engine: Engine, seconds: float, key: str = "order-1") -> UUID:
    """A saga whose first step has been unknown for so long: the log's own times are moved."""
    saga_id = engine.client.start("shop", {"amount": 1}, key=key).id
    engine.work()
    past = "clock_timestamp() - :age * interval '1 s'"
    engine.sql("ALTER TABLE amends.saga_log DISABLE TRIGGER USER")
    for change in (
        f"saga SET created_at = {past} WHERE id = :id",
        f"saga_log SET recorded_at = {past} WHERE saga_id = :id AND kind = 'StepUnknown'",
    ):
        engine.sql(f"UPDATE amends.{change}", age=seconds, id=saga_id)
    return saga_id


def test_an_unknown_is_told_of_when_it_is_too_old(engine: Engine, alerts: Alerts) -> None:
    lost_for(engine, AGE - 60, "young")
    old = lost_for(engine, AGE + 60, "old")
    assert notifier(engine).run_once() == AlertReport(raised=1)
    assert notifier(engine).run_once() == AlertReport()
    [alert] = alerts.find(closed_too=False, limit=10)
    assert (alert.kind, alert.saga_id) == (AlertKind.UNKNOWN_TOO_LONG, old)
    assert (alert.data["key"], alert.data["step"]) == ("old", "pay")


def test_of_a_log_that_was_looked_at_only_what_was_added_is_read_again(
    engine: Engine, alerts: Alerts, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost_for(engine, AGE + 60, "old")
    log, asked = SagaLog(Database(engine.pool)), list[int]()
    entries = log.entries

    def noted(saga_id: UUID, after: int = 0) -> list[Recorded]:
        asked.append(after)
        return entries(saga_id, after)

    monkeypatch.setattr(log, "entries", noted)
    watch = unknowns.UnknownWatch(alerts, log, age_seconds=AGE)
    raised, _ = watch.look()
    assert [each.kind for each in raised] == [AlertKind.UNKNOWN_TOO_LONG]
    watch._next_look = 0.0
    assert watch.look() == ([], [])
    first, *later = asked
    assert first == 0
    assert min(later) > 0


def test_a_settled_unknown_is_not_told_of_any_more(engine: Engine, alerts: Alerts) -> None:
    saga_id = lost_for(engine, AGE + 60)
    notifier(engine).run_once()
    engine.sql("UPDATE amends.attempt SET due_at = clock_timestamp()")
    claim = engine.claim(saga_id)
    engine.coordinator.log.append_outcome(*landed(claim))
    assert notifier(engine).run_once() == AlertReport(closed=1)
    [alert] = alerts.find(closed_too=True, limit=10)
    assert alert.closed_by == MOVED_ON


def landed(claim: Any) -> tuple[Any, Any]:
    done = StepSucceeded(step="pay", direction="forward", attempt=claim.attempt.number)
    return Closing(id=claim.attempt, token=claim.token), done


def test_every_unknown_is_reached_however_many_come_before_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unknowns, "PAGE", 2)
    for number in range(5):
        lost_for(engine, AGE + 60, f"order-{number}")
    one = notifier(engine)
    assert [one.run_once().raised for _ in range(4)] == [2, 2, 1, 0]
    engine.sql("UPDATE amends.alert SET saga_id = gen_random_uuid()")  # as if all were pruned
    other = notifier(engine)
    assert [other.run_once().closed for _ in range(3)] == [2, 2, 1]


# -- nobody sweeps ---------------------------------------------------------------------------------


def seen(engine: Engine, *, ago: float = 0.0) -> None:
    Processes(Database(engine.pool)).seen(sweeper_process(engine.coordinator.definitions))
    engine.sql(
        "UPDATE amends.process SET seen_at = clock_timestamp() - :ago * interval '1 s'", ago=ago
    )


def overdue(engine: Engine, seconds: float) -> None:
    engine.sql(
        "UPDATE amends.saga SET due_at = clock_timestamp() - :ago * interval '1 s'", ago=seconds
    )


def kinds(alerts: Alerts) -> list[str]:
    return [each.kind.value for each in alerts.find(closed_too=False, limit=10)]


def test_a_silent_sweeper_is_told_of_once_and_is_over_when_it_speaks(
    engine: Engine, alerts: Alerts
) -> None:
    seen(engine, ago=PATIENCE + 1)
    one = watchful(engine)
    assert [one.run_once().raised, one.run_once().raised] == [1, 0]
    assert kinds(alerts) == ["sweeper_silent"]
    seen(engine)
    assert one.run_once() == AlertReport(closed=1)
    seen(engine, ago=PATIENCE + 1)
    assert one.run_once() == AlertReport(raised=1)  # the next silence is another one


def test_an_acknowledged_silence_is_not_told_of_again_but_the_next_one_is(
    engine: Engine, alerts: Alerts
) -> None:
    one = watchful(engine)  # no sweeper was ever seen
    one.run_once()
    [alert] = alerts.find(closed_too=False, limit=10)
    alerts.acknowledge(alert.id, actor="ada", reason="maintenance")
    assert one.run_once() == AlertReport()
    seen(engine)
    one.run_once()
    [over] = alerts.find(closed_too=True, limit=10)
    assert over.closed_by == "ada"
    engine.sql("DELETE FROM amends.process")  # it ended in order
    assert one.run_once() == AlertReport(raised=1)


def test_overdue_sagas_are_one_alert_that_names_the_oldest(engine: Engine, alerts: Alerts) -> None:
    seen(engine)
    for number in range(3):
        engine.client.start("fine", {"amount": 1}, key=f"order-{number}")
    overdue(engine, PATIENCE + 10)
    engine.sql("UPDATE amends.saga SET due_at = due_at - interval '1 h' WHERE key = 'order-1'")
    one = watchful(engine)
    assert [one.run_once().raised, one.run_once().raised] == [1, 0]
    [alert] = alerts.find(closed_too=False, limit=10)
    assert (alert.kind, alert.data["key"]) == (AlertKind.SAGA_OVERDUE, "order-1")
    overdue(engine, 0)
    assert one.run_once() == AlertReport(closed=1)
    overdue(engine, PATIENCE + 10)
    assert one.run_once() == AlertReport(raised=1)


def test_a_process_that_just_started_does_not_judge_silence(engine: Engine, alerts: Alerts) -> None:
    engine.client.start("fine", {"amount": 1}, key="order-1")
    overdue(engine, 3600)
    one = notifier(engine)
    assert [one.run_once(), one.stand_by()] == [AlertReport(), AlertReport()]
    assert kinds(alerts) == []


def test_after_an_outage_of_the_database_sweepers_get_their_time(
    engine: Engine, alerts: Alerts, database: str
) -> None:
    one = watchful(engine)
    seen(engine, ago=PATIENCE + 1)
    with read_only(database), pytest.raises(LogUnavailableError):
        one.run_once()
    one.run_once()
    assert kinds(alerts) == []
    one._watches_since -= PATIENCE
    one.run_once()
    assert kinds(alerts) == ["sweeper_silent"]


def test_who_stands_by_does_everything_once_no_sweeper_is_seen(
    engine: Engine, alerts: Alerts
) -> None:
    park(engine)
    inbox = Inbox()
    one = notifier(engine, inbox)
    seen(engine)
    one.stand_by()
    one._watches_since -= PATIENCE
    assert one.stand_by() == AlertReport()
    seen(engine, ago=PATIENCE + 1)
    assert one.stand_by() == AlertReport(raised=2, sent=2)
    assert sorted(kinds(alerts)) == ["saga_parked", "sweeper_silent"]


# -- the loop --------------------------------------------------------------------------------------


def test_the_loop_outlives_a_server_that_became_read_only(
    engine: Engine, alerts: Alerts, database: str
) -> None:
    one = notifier(engine)
    with events() as heard, AlertLoop(one.run_once, pause_seconds=0.02):
        with read_only(database):
            wait_until(lambda: "alert.failed" in dict(heard))
        park(engine)
        wait_until(lambda: kinds(alerts) == ["saga_parked"])


# -- roles -----------------------------------------------------------------------------------------


def test_the_workers_role_may_do_all_of_it(engine: Engine, alerts: Alerts) -> None:
    park(engine)
    lost_for(engine, AGE + 60, "lost")

    def connected(connection: Any, _record: Any) -> None:
        connection.autocommit = True
        connection.execute("SET ROLE amends_worker")
        connection.autocommit = False

    sqlalchemy.event.listen(engine.pool, "connect", connected)
    engine.pool.dispose()
    inbox = Inbox()
    assert watchful(engine, inbox).run_once() == AlertReport(raised=1, sent=1)
    assert len(inbox.ids) == 3
    assert alerts.acknowledge(inbox.ids[0], actor="ada", reason="on it") is not None
    assert alerts.acknowledge(uuid4(), actor="ada", reason="which?") is None
