"""Velocity on a real Postgres: each attempt counts once, by the database's clock."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy

from orchestrator.storage.database import create_engine
from steps.storage.velocity import PostgresVelocityTracker

HOUR = timedelta(hours=1)


@pytest.fixture
def pool(database: str) -> Iterator[Any]:
    engine = create_engine(database, pool_size=32)
    yield engine
    engine.dispose()


def test_an_attempt_recorded_at_once_32_times_counts_once(pool: Any) -> None:
    tracker = PostgresVelocityTracker(pool)
    with ThreadPoolExecutor(32) as threads:
        counts = list(threads.map(lambda _: tracker.record("s", "same", HOUR), range(32)))

    assert counts == [1] * 32
    assert tracker.record("s", "other", HOUR) == 2
    assert tracker.record("s", "same", HOUR) == 1


def test_different_attempts_at_once_never_see_the_same_count(pool: Any) -> None:
    tracker = PostgresVelocityTracker(pool)
    with ThreadPoolExecutor(32) as threads:
        counts = list(threads.map(lambda n: tracker.record("s", f"a-{n}", HOUR), range(32)))

    assert sorted(counts) == list(range(1, 33))


@pytest.mark.parametrize(("gap", "count"), [("0 us", 1), ("1 us", 2)])
def test_an_attempt_as_old_as_the_window_is_out(pool: Any, gap: str, count: int) -> None:
    tracker = PostgresVelocityTracker(pool)
    tracker.record("s", "old", HOUR)
    tracker.record("s", "new", HOUR)
    with pool.begin() as connection:
        connection.execute(
            sqlalchemy.text(
                "UPDATE shop.fraud_attempt SET recorded_at = CAST(:gap AS interval) "
                "- interval '1 hour' + (SELECT recorded_at FROM shop.fraud_attempt "
                "WHERE attempt_id = 'new') WHERE attempt_id = 'old'"
            ),
            {"gap": gap},
        )

    assert tracker.record("s", "new", HOUR) == count
    assert tracker.prune(timedelta(minutes=59)) == 1
