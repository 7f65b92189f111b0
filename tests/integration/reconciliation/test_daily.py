"""A day is reconciled: rows with a life, actions at least once, people told once."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator.context import Effect
from orchestrator.entries import UndoFailed
from orchestrator.errors import PayloadError
from orchestrator.storage.alerts import Alert, Alerts
from orchestrator.storage.database import Database
from recovery.reconciliation.closing import close
from recovery.reconciliation.daily import (
    DailyReconciliation,
    DayBusyError,
    DayNotOverError,
    DayReport,
    Reports,
)
from recovery.reconciliation.discrepancies import Discrepancy, DiscrepancyType
from recovery.reconciliation.records import InvalidRow, Row, TransactionRecord
from recovery.reconciliation.storage.comparison import session
from recovery.reconciliation.storage.findings import Finding, Findings, FindingState, lock
from tests.integration.engine import Engine
from tests.integration.reconciliation.test_ledger import SHOP, moved
from tests.yesterday import NOON, YESTERDAY, move_sagas

T = DiscrepancyType


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


@pytest.fixture
def daily(engine: Engine) -> DailyReconciliation:
    return DailyReconciliation(Database(engine.pool), engine.client, name="bank")


def completed(engine: Engine, *keys: str, first: datetime = NOON) -> list[Any]:
    """Sagas that completed yesterday, each with a hold and a capture (and one without a name)."""
    ids = [engine.client.start("shop", {"amount": 1}, key=key).id for key in keys]
    for each in ids:
        assert engine.finish(each) == "completed"
    move_sagas(engine.pool, first)
    return ids


def line(order: str, kind: str, minor: int = 100, **changes: Any) -> TransactionRecord:
    values: dict[str, Any] = {
        "reference": f"p-{order}",
        "amount_minor": minor,
        "currency": "EUR",
        "at": NOON,
        "kind": kind,
        "order_reference": order,
    }
    return TransactionRecord(**values | changes)


def right(*keys: str, **changes: Any) -> list[Row]:
    """What the gateway tells of completed sagas."""
    return [line(key, kind, **changes) for key in keys for kind in ("authorize", "capture")]


def run(daily: DailyReconciliation, rows: Iterable[Row], **neighbours: Any) -> DayReport:
    around: dict[str, Any] = {"before": (), "after": ()}
    return daily.run(YESTERDAY, Reports(day=rows, **around | neighbours))


def findings(engine: Engine) -> list[Finding]:
    """All but the movement without a reference that every saga of `SHOP` has."""
    found = Findings(Database(engine.pool)).find(closed_too=True, limit=1_000)
    return [each for each in found if each.discrepancy.type is not T.INVALID_ROW]


def told(engine: Engine) -> list[tuple[DiscrepancyType, str, str]]:
    return [(e.discrepancy.type, e.discrepancy.kind, e.discrepancy.name) for e in findings(engine)]


def alerts(engine: Engine) -> list[Alert]:
    found = Alerts(Database(engine.pool)).find(closed_too=True, limit=1_000)
    return [each for each in found if each.data["reason"] != "invalid_row"]


def test_what_matches_is_no_discrepancy(engine: Engine, daily: DailyReconciliation) -> None:
    completed(engine, "a", "b")

    done = run(daily, right("a", "b"))

    assert told(engine) == []
    assert done.run.matched_count == 4
    assert done.found == {"invalid_row": 2}  # the captures without a reference


def test_every_discrepancy_names_its_saga(engine: Engine, daily: DailyReconciliation) -> None:
    a, b = completed(engine, "a", "b")

    run(daily, [*right("a", minor=99), line("b", "capture"), line("b", "refund", reference="r")])

    assert [(e.discrepancy.name, e.discrepancy.type, e.discrepancy.saga_id, e.discrepancy.step)
            for e in findings(engine)] == [
        ("p-a", T.AMOUNT_MISMATCH, a, "hold"),
        ("p-a", T.AMOUNT_MISMATCH, a, "take"),
        ("p-b", T.MISSING_GATEWAY, b, "hold"),
        ("r", T.MISSING_INTERNAL, b, None),
    ]  # fmt: skip


def test_running_twice_gives_the_same_rows_and_one_page(
    engine: Engine, daily: DailyReconciliation
) -> None:
    completed(engine, "a", "b")
    run(daily, right("a"))
    before = {each.id: each.discrepancy for each in findings(engine)}
    paged = {each.id for each in alerts(engine)}

    for _ in range(3):
        run(daily, right("a"))

    assert {each.id: each.discrepancy for each in findings(engine)} == before
    assert len(before) == 2
    assert {each.id for each in alerts(engine)} == paged
    assert len(paged) == 2


def test_what_a_later_run_does_not_find_is_gone_with_its_alert_and_may_come_back(
    engine: Engine, daily: DailyReconciliation
) -> None:
    completed(engine, "a")
    run(daily, [])
    run(daily, right("a"))

    assert {each.state for each in findings(engine)} == {FindingState.GONE}
    assert all(each.closed_at for each in alerts(engine))
    assert len(alerts(engine)) == 2

    run(daily, [])

    assert {each.state for each in findings(engine)} == {FindingState.ACTED}
    assert sum(each.closed_at is None for each in alerts(engine)) == 2
    assert len(alerts(engine)) == 4


@pytest.mark.parametrize("state", [FindingState.RESOLVED, FindingState.ACCEPTED])
def test_what_a_person_closed_stays_closed_until_it_differs_in_another_way(
    engine: Engine, daily: DailyReconciliation, state: FindingState
) -> None:
    completed(engine, "a")
    rows = [line("a", "authorize"), line("a", "capture", 99)]
    run(daily, rows)
    [finding] = findings(engine)
    close(Database(engine.pool), finding, state, actor="ada", reason="by hand")

    run(daily, rows)

    [still] = findings(engine)
    assert (still.state, still.closed_by, still.reason) == (state, "ada", "by hand")
    [alert] = alerts(engine)
    assert alert.closed_at is not None

    run(daily, [line("a", "authorize"), line("a", "capture", 98)])

    [again] = findings(engine)
    assert again.state is FindingState.ACTED
    assert [each["actor"] for each in again.history] == ["ada"]
    assert len(alerts(engine)) == 2


def test_of_two_people_one_closes_it(engine: Engine, daily: DailyReconciliation) -> None:
    completed(engine, "a")
    run(daily, [line("a", "authorize")])
    [seen] = findings(engine)
    database = Database(engine.pool)

    first = close(database, seen, FindingState.ACCEPTED, actor="ada", reason="known")
    second = close(database, seen, FindingState.RESOLVED, actor="bob", reason="done")

    assert first is not None
    assert second is None
    assert [each.closed_by for each in findings(engine)] == ["ada"]


@pytest.mark.parametrize(
    ("actor", "reason"), [("", "x"), ("x", " "), ("x", "y" * 501), ("x", "4242 4242 4242 4242")]
)
def test_who_closes_says_why(
    engine: Engine, daily: DailyReconciliation, actor: str, reason: str
) -> None:
    completed(engine, "a")
    run(daily, [line("a", "authorize")])
    [seen] = findings(engine)

    with pytest.raises(PayloadError):
        close(Database(engine.pool), seen, FindingState.ACCEPTED, actor=actor, reason=reason)


def test_a_handler_that_fails_loses_nothing_and_is_told_again(
    engine: Engine, daily: DailyReconciliation
) -> None:
    heard: list[Discrepancy] = []

    def fails_once(found: Discrepancy) -> None:
        heard.append(found)
        if len(heard) == 1:
            raise RuntimeError("the pager is down")

    daily.on(T.MISSING_GATEWAY, fails_once)
    completed(engine, "a")

    done = run(daily, [line("a", "authorize")])

    [failed] = findings(engine)
    assert done.failed_actions == 1
    assert failed.state is FindingState.OPEN
    assert failed.last_error == "RuntimeError: the pager is down"

    assert run(daily, [line("a", "authorize")]).failed_actions == 0
    [acted] = findings(engine)
    assert (acted.state, acted.last_error) == (FindingState.ACTED, None)
    run(daily, [line("a", "authorize")])
    assert len(heard) == 2
    assert len(alerts(engine)) == 1


def test_what_could_not_be_acted_upon_is_tried_again_and_told_a_person_the_second_time(
    engine: Engine, daily: DailyReconciliation
) -> None:
    tries: list[Discrepancy] = []

    def fails_twice(found: Discrepancy) -> None:
        tries.append(found)
        if len(tries) < 3:
            raise RuntimeError("not now")

    daily.on(T.STATUS_MISMATCH, fails_twice)
    completed(engine, "a")
    run(daily, [line("a", "authorize"), line("a", "capture", status="failed")])
    engine.sql("DELETE FROM amends.alert")

    assert daily.retry(YESTERDAY) == 1
    assert len(alerts(engine)) == 1
    assert daily.retry(YESTERDAY) == 0
    assert daily.retry(YESTERDAY) == 0

    [found] = findings(engine)
    assert (found.state, len(tries), len(alerts(engine))) == (FindingState.ACTED, 3, 1)


def test_a_refund_that_failed_at_the_gateway_is_made_again(
    engine: Engine, daily: DailyReconciliation
) -> None:
    saga_id = engine.client.start("shop", {"amount": 1}, key="a").id
    engine.coordinator.execute(engine.claim(saga_id, "hold"), lambda _queue: False)
    engine.coordinator.execute(engine.claim(saga_id, "take"), lambda _queue: False)
    engine.client.cancel(saga_id, reason="a test")
    assert engine.finish(saga_id) == "compensated"
    move_sagas(engine.pool)
    refund = line("a", "refund", reference="r-a-1")
    bounced = line("a", "refund", reference="r-a-1", status="failed", at=NOON + timedelta(hours=1))
    rows = [*right("a"), line("a", "void"), refund, bounced]

    run(daily, rows)

    [found] = findings(engine)
    assert (found.discrepancy.type, found.action) == (
        T.STATUS_MISMATCH,
        "told the saga that its undo of take failed",
    )
    assert [e.by for e in engine.entries(saga_id) if isinstance(e, UndoFailed)] == [
        "reconciliation"
    ]
    assert engine.finish(saga_id) == "compensated"
    run(daily, rows)
    assert [each.state for each in findings(engine)] == [FindingState.GONE]
    assert alerts(engine) == []


def test_a_refund_that_failed_on_a_later_day_was_right_on_its_own(
    engine: Engine, daily: DailyReconciliation
) -> None:
    saga_id = engine.client.start("shop", {"amount": 1}, key="a").id
    engine.coordinator.execute(engine.claim(saga_id, "hold"), lambda _queue: False)
    engine.coordinator.execute(engine.claim(saga_id, "take"), lambda _queue: False)
    engine.client.cancel(saga_id, reason="a test")
    assert engine.finish(saga_id) == "compensated"
    move_sagas(engine.pool)
    engine.client.report_undo_failed(saga_id, "take", "r-a-1", by="a webhook of today")

    done = run(daily, [*right("a"), line("a", "void"), line("a", "refund", reference="r-a-1")])

    assert told(engine) == []
    assert done.run.matched_count == 4


def test_a_wrong_report_raises_a_bounded_number_of_alerts(
    engine: Engine, daily: DailyReconciliation
) -> None:
    strange = [line(f"x-{number:03d}", "capture") for number in range(60)]

    done = run(daily, strange)
    run(daily, strange)

    assert done.open == {"missing_internal": 60}
    assert {each.state for each in findings(engine)} == {FindingState.ACTED}
    assert len(alerts(engine)) == 21
    assert run(daily, []).is_settled
    assert all(each.closed_at for each in alerts(engine))


def test_a_bad_row_never_ends_the_run(engine: Engine, daily: DailyReconciliation) -> None:
    completed(engine, "a")
    other_day = line("x", "capture", at=NOON - timedelta(days=3))

    done = run(
        daily, [InvalidRow(why="torn\x00"), *right("a"), other_day, line("x", "capture", -5)]
    )

    assert done.run.matched_count == 2
    assert done.found == {"invalid_row": 4}
    rows = Findings(Database(engine.pool)).find(limit=10)
    theirs = [each.discrepancy for each in rows if each.discrepancy.side == "gateway"]
    assert {(each.name, each.why) for each in theirs} == {
        ("row 1", "torn\N{REPLACEMENT CHARACTER}"),
        ("row 4", f"it is not of {YESTERDAY}: p-x,100,EUR,{other_day.at},capture,moved,,x,"),
        ("row 5", f"the amount is no number of minor units: p-x,-5,EUR,{NOON},capture,moved,,x,"),
    }


MIDNIGHT = datetime(YESTERDAY.year, YESTERDAY.month, YESTERDAY.day, tzinfo=UTC)


def test_what_the_gateway_put_on_the_day_before_is_no_discrepancy(
    engine: Engine, daily: DailyReconciliation
) -> None:
    completed(engine, "a", first=MIDNIGHT + timedelta(seconds=1))
    before = right("a", at=MIDNIGHT - timedelta(seconds=1))

    assert run(daily, [], before=before).open == {"invalid_row": 1}
    assert told(engine) == []


def test_near_midnight_nothing_is_judged_without_the_neighbours_report(
    engine: Engine, daily: DailyReconciliation
) -> None:
    completed(engine, "a", first=MIDNIGHT + timedelta(seconds=1))

    done = run(daily, [], before=None)

    assert told(engine) == []
    assert done.run.unjudged_count == 2
    assert not done.is_settled


def test_what_was_written_down_hours_later_is_found_by_its_order(
    engine: Engine, daily: DailyReconciliation
) -> None:
    """The saga's log tells of it only today: the gateway's answer was lost, and settled late."""
    for key in ("a", "b"):
        assert engine.finish(engine.client.start("shop", {"amount": 1}, key=key).id) == "completed"

    assert run(daily, right("a")).run.matched_count == 2
    assert told(engine) == []


def test_what_the_report_tells_of_a_pruned_saga_is_not_judged(
    engine: Engine, daily: DailyReconciliation
) -> None:
    engine.sql(
        'INSERT INTO amends.tombstone (definition, key, saga_id, fingerprint, state, "references", '
        "ended_at, version, definition_hash) VALUES ('shop', 'a', gen_random_uuid(), 'f', "
        "'completed', ARRAY['p-a'], clock_timestamp() - interval '1 day', 1, 'h')"
    )

    done = run(daily, right("a"))

    assert told(engine) == []
    assert done.run.unjudged_count == 2


def test_a_day_that_is_not_over_is_refused(daily: DailyReconciliation) -> None:
    assert daily.yesterday() == YESTERDAY
    for ahead in (1, 2):
        with pytest.raises(DayNotOverError):
            daily.run(YESTERDAY + timedelta(days=ahead), Reports(day=[]))


def test_a_day_ends_when_it_ends_where_the_gateway_is(engine: Engine) -> None:
    east = DailyReconciliation(Database(engine.pool), engine.client, name="e", zone="Etc/GMT-14")
    west = DailyReconciliation(Database(engine.pool), engine.client, name="w", zone="Etc/GMT+12")

    assert east.yesterday() > west.yesterday()
    with pytest.raises(DayNotOverError):
        west.run(east.yesterday(), Reports(day=[]))


def test_one_at_a_time_has_a_day(engine: Engine, daily: DailyReconciliation) -> None:
    with session(Database(engine.pool)) as connection:
        assert lock(connection, "bank", YESTERDAY)
        with pytest.raises(DayBusyError):
            run(daily, [])
    assert run(daily, []).run.run_count == 1


def test_many_at_once_leave_what_one_would(engine: Engine, daily: DailyReconciliation) -> None:
    completed(engine, "a", "b")
    ended: list[object] = []

    def reconcile() -> None:
        try:
            ended.append(run(daily, right("a")).run.run_count)
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            ended.append(error)

    threads = [threading.Thread(target=reconcile) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert [each for each in ended if not isinstance(each, int | DayBusyError)] == []
    assert any(isinstance(each, int) for each in ended)
    assert len(findings(engine)) == len(alerts(engine)) == 2


def test_a_run_that_dies_before_it_is_kept_has_left_nothing(
    engine: Engine, daily: DailyReconciliation
) -> None:
    def breaks() -> Iterator[Row]:
        yield line("x", "capture")
        raise OSError("the gateway went away")

    with pytest.raises(OSError, match="went away"):
        run(daily, breaks())

    assert told(engine) == []
    assert not daily.is_done(YESTERDAY)


def test_an_effect_that_is_known_by_now_is_not_for_a_person(
    engine: Engine, daily: DailyReconciliation
) -> None:
    """Its saga was told between the comparison and the action, or by another row's action."""
    [saga_id] = completed(engine, "a")
    second = line("a", "authorize", reference="p-2", key="not-a-key-of-ours")
    run(daily, [*right("a"), second])
    assert [each.action for each in findings(engine)] == ["told a person"]
    effect = Effect(reference="p-2", movements=[moved("authorize", "p-2")])
    engine.client.report_effect(saga_id, "hold", effect, by="a webhook")

    run(daily, [*right("a"), second])

    assert [each.state for each in findings(engine)] == [FindingState.GONE]
