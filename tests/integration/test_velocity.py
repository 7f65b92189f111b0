"""Velocity on a real Postgres: each attempt counts once, by the database's clock."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy

from orchestrator.storage.database import create_engine
from steps.storage.velocity import PostgresVelocityTracker

HOUR = timedelta(hours=1)
PROCESSES, THREADS = 4, 25

_CROWD = """
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from orchestrator.storage.database import create_engine
from steps.storage.velocity import PostgresVelocityTracker

url, process, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
tracker = PostgresVelocityTracker(create_engine(url, pool_size=threads))
hour = timedelta(hours=1)
print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(threads) as pool:
    attempts = [f"{process}-{n}" for n in range(threads)]
    print(*pool.map(lambda attempt: tracker.record("crowd", attempt, hour), attempts))
"""


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


def test_counting_may_stop_where_it_is_enough(pool: Any) -> None:
    tracker = PostgresVelocityTracker(pool)
    counts = [tracker.record("s", f"a-{number}", HOUR, up_to=3) for number in range(5)]

    assert counts == [1, 2, 3, 3, 3]
    assert tracker.record("s", "a-4", HOUR) == 5


def test_a_hundred_attempts_in_several_processes_are_counted_exactly(database: str) -> None:
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", _CROWD, database, str(number), str(THREADS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    for each in crowd:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in crowd:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    counts = [int(count) for each in crowd for count in _told(each)]

    assert sorted(counts) == list(range(1, PROCESSES * THREADS + 1))


def _told(process: subprocess.Popen[str]) -> list[str]:
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return told.split()


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
