"""Two lists of movements, compared in a real Postgres: every type, no false alarm, exact order."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from orchestrator.storage.database import Database, create_engine
from recovery.reconciliation.business_day import BusinessDay
from recovery.reconciliation.discrepancies import Discrepancy, DiscrepancyType
from recovery.reconciliation.reconciler import Reconciler
from recovery.reconciliation.records import InvalidRow, Row, TransactionRecord

DAY = BusinessDay.of(date(2026, 11, 23), "UTC")
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
T = DiscrepancyType


@pytest.fixture
def reconciler(database: str) -> Iterator[Reconciler]:
    pool = create_engine(database)
    yield Reconciler(Database(pool))
    pool.dispose()


def record(reference: str, minor: int = 100, **changes: Any) -> TransactionRecord:
    values: dict[str, Any] = {
        "reference": reference,
        "amount_minor": minor,
        "currency": "EUR",
        "at": NOON,
    }
    return TransactionRecord(**values | changes)


def types(found: list[Discrepancy]) -> list[tuple[str, DiscrepancyType]]:
    return [(each.name, each.type) for each in found]


A = record("a")

CASES: list[tuple[list[Row], list[Row], list[tuple[str, DiscrepancyType]]]] = [
    ([A], [A], []),
    ([], [A], [("a", T.MISSING_INTERNAL)]),
    ([A], [], [("a", T.MISSING_GATEWAY)]),
    ([A], [record("a", 99)], [("a", T.AMOUNT_MISMATCH)]),
    ([A], [record("a", status="failed")], [("a", T.STATUS_MISMATCH)]),
    ([A], [record("a", currency="USD")], [("a", T.CURRENCY_MISMATCH)]),
    ([A, A], [A], [("a", T.DUPLICATE_INTERNAL)]),
    ([A], [A, A], [("a", T.DUPLICATE_GATEWAY)]),
    ([A, A], [A, A], [("a", T.DUPLICATE_GATEWAY), ("a", T.DUPLICATE_INTERNAL)]),
    ([A], [InvalidRow(why="torn"), A], [("row 1", T.INVALID_ROW)]),
    ([A, record("b", -1)], [A], [("row 2", T.INVALID_ROW)]),
    ([A], [A, record("b", currency="eur")], [("row 2", T.INVALID_ROW)]),
    ([A], [A, record("b", at=NOON.replace(tzinfo=None))], [("row 2", T.INVALID_ROW)]),
    ([A], [A, record("b\0")], [("row 2", T.INVALID_ROW)]),
    ([A], [A, record("b", True)], [("row 2", T.INVALID_ROW)]),
    ([record("a", status="failed")], [], []),
    ([record("a", status="declined"), record("b", status="blocked")], [], []),
    ([], [record("a", status="declined")], []),
    ([record("a", status="failed")], [A], [("a", T.STATUS_MISMATCH)]),
    ([record("a", kind="capture")], [record("a", kind="capture"), record("a", kind="refund")],
     [("a", T.MISSING_INTERNAL)]),
    ([record("a", 99, currency="USD")], [A], [("a", T.CURRENCY_MISMATCH)]),
]  # fmt: skip


@pytest.mark.parametrize(("internal", "gateway", "wanted"), CASES)
def test_a_difference_is_told_of_by_its_type_and_nothing_else_is(
    reconciler: Reconciler,
    internal: list[Row],
    gateway: list[Row],
    wanted: list[tuple[str, DiscrepancyType]],
) -> None:
    report = reconciler.reconcile(internal=internal, gateway=gateway)

    assert types(list(report.discrepancies)) == wanted
    assert report.is_clean == (not wanted)
    assert sum(report.summary().values()) - report.matched == len(wanted)


def test_a_duplicate_is_never_a_match(reconciler: Reconciler) -> None:
    assert reconciler.reconcile(internal=[A, A], gateway=[A, A]).matched == 0


LATE, EARLY = DAY.end - timedelta(seconds=1), DAY.end + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (LATE, EARLY),
        (EARLY, LATE),
        (DAY.start - timedelta(seconds=1), DAY.start + timedelta(seconds=1)),
        (DAY.start + timedelta(seconds=1), DAY.start - timedelta(seconds=1)),
    ],
)
def test_a_payment_at_midnight_is_looked_for_on_both_sides(
    reconciler: Reconciler, ours: datetime, theirs: datetime
) -> None:
    report = reconciler.reconcile(
        internal=[record("a", at=ours)], gateway=[record("a", at=theirs)], day=DAY
    )

    assert report.is_clean


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (datetime(2026, 11, 24, 11, tzinfo=timezone(timedelta(hours=23))), {"matched": 1}),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), {T.INVALID_ROW: 1}),
        (datetime.max.replace(tzinfo=timezone(-timedelta(hours=14))), {T.INVALID_ROW: 1}),
    ],
)
def test_a_moment_that_postgres_does_not_take_ends_no_run(
    reconciler: Reconciler, at: datetime, expected: dict[str, int]
) -> None:
    theirs = [record("a", at=at)]

    summary = reconciler.reconcile(internal=[A], gateway=theirs).summary()

    assert {key: summary[key] for key in expected} == expected


def test_a_movement_is_judged_on_one_day_only(reconciler: Reconciler) -> None:
    """On that of the gateway; where the gateway knows nothing, on ours."""
    pair = {"internal": [record("a", at=LATE)], "gateway": [record("a", 99, at=EARLY)]}
    next_day = BusinessDay.of(date(2026, 11, 24), "UTC")

    assert reconciler.reconcile(**pair, day=DAY).is_clean
    assert reconciler.reconcile(**pair, day=next_day).counts == {T.AMOUNT_MISMATCH: 1}
    alone = [record("b", at=LATE)]
    assert reconciler.reconcile(internal=alone, gateway=[], day=next_day).is_clean
    assert not reconciler.reconcile(internal=alone, gateway=[], day=DAY).is_clean


def test_a_day_is_as_long_as_it_is_where_the_gateway_is() -> None:
    spring, autumn = date(2026, 3, 29), date(2026, 10, 25)
    lengths = [
        (day.end.astimezone(UTC) - day.start.astimezone(UTC)).total_seconds() / 3600
        for day in (BusinessDay.of(each, "Europe/Berlin") for each in (spring, autumn))
    ]

    assert lengths == [23, 25]


def test_handlers_are_told_by_type_and_one_that_fails_keeps_back_nobody(
    reconciler: Reconciler,
) -> None:
    told: list[str] = []

    def fails(found: Discrepancy) -> None:
        raise RuntimeError(found.name)

    reconciler.on(T.MISSING_GATEWAY, fails).on(
        T.MISSING_GATEWAY, lambda found: told.append(found.name)
    )
    report = reconciler.reconcile(internal=[record("a"), record("b")], gateway=[record("c")])

    assert told == ["a", "b"]
    assert [str(error) for _, error in report.handler_failures] == ["a", "b"]
    assert report.counts == {T.MISSING_GATEWAY: 2, T.MISSING_INTERNAL: 1}


def test_without_a_database_the_one_of_the_settings_is_taken(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENDS_DATABASE_URL", database)

    assert Reconciler().reconcile(internal=[A], gateway=[A]).summary()["matched"] == 1


# -- size ------------------------------------------------------------------------------------------

PLANTED = 20


def sides(count: int) -> tuple[Callable[[], Iterator[Row]], Callable[[], Iterator[Row]], set[Any]]:
    """Two sides of so many rows that differ in `PLANTED` rows of each type, and how."""
    dice = random.Random(7)  # noqa: S311 - repeatable, not secret
    chosen = iter(dice.sample(range(count), PLANTED * len(T)))
    differs: dict[int, DiscrepancyType] = {next(chosen): each for each in T for _ in range(PLANTED)}

    def internal() -> Iterator[Row]:
        for number in range(count):
            row = record(f"pay_{number:08d}", number % 9_000)
            match differs.get(number):
                case T.MISSING_INTERNAL:
                    continue
                case T.DUPLICATE_INTERNAL:
                    yield row
                case _:
                    pass
            yield row

    def gateway() -> Iterator[Row]:
        for number in range(count - 1, -1, -1):
            row = record(f"pay_{number:08d}", number % 9_000)
            match differs.get(number):
                case T.MISSING_GATEWAY:
                    continue
                case T.AMOUNT_MISMATCH:
                    row = replace(row, amount_minor=row.amount_minor + 1)
                case T.STATUS_MISMATCH:
                    row = replace(row, status="failed")
                case T.CURRENCY_MISMATCH:
                    row = replace(row, currency="USD")
                case T.DUPLICATE_GATEWAY:
                    yield row
                case T.INVALID_ROW:
                    yield InvalidRow(why="torn")
                case _:
                    pass
            yield row

    wanted = {
        (f"pay_{number:08d}", kind) for number, kind in differs.items() if kind != T.INVALID_ROW
    }
    return internal, gateway, wanted


def compare(database: str, count: int) -> None:
    """Compare two sides of so many rows; every difference is found, and no other."""
    internal, gateway, wanted = sides(count)
    pool = create_engine(database)
    report = Reconciler(Database(pool)).reconcile(internal=internal(), gateway=gateway())
    pool.dispose()
    found = types(list(report.discrepancies))
    assert {each for each in found if each[1] != T.INVALID_ROW} == wanted
    assert len(found) == len(wanted) + PLANTED
    assert found == sorted(found)
    clean = count - PLANTED * (len(T) - 1)
    assert report.matched == clean


MEASURE = """
import sys, time
from tests.integration.reconciliation.test_reconciler import compare
from tests.peak_memory import peak_mb
began = time.monotonic()
compare(sys.argv[1], int(sys.argv[2]))
print(f"{time.monotonic() - began:.1f} {peak_mb()}")
"""


def measured(database: str, count: int) -> tuple[float, float]:
    """Compare in a process of its own; return its seconds and its peak memory in MB."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, database, str(count)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    seconds, peak = map(float, done.stdout.split())
    print(f"\nmeasured: {count:,} x {count:,} rows in {seconds} s, {peak:.0f} MB at most")
    return seconds, peak


def test_a_hundred_thousand_rows_are_compared_exactly_in_seconds(database: str) -> None:
    seconds, peak = measured(database, 100_000)

    assert seconds < 60  # on a machine that does other things too
    assert peak < 200


@pytest.mark.long
@pytest.mark.timeout(1_200)
def test_two_million_rows_are_compared_in_bounded_memory(database: str) -> None:
    _, peak = measured(database, 2_000_000)

    assert peak < 300
