"""A run's session: what it locked is free when it ends, not when the server notices."""

from __future__ import annotations

from datetime import date

from orchestrator.storage.database import Database, create_engine
from recovery.reconciliation.storage.comparison import session
from recovery.reconciliation.storage.findings import lock

DAY = date(2026, 11, 23)


def test_a_day_is_free_for_the_next_run_when_one_has_ended(database: str) -> None:
    pool = create_engine(database)
    taken = []
    with session(Database(pool)) as following:
        for _ in range(50):
            with session(Database(pool)) as connection:
                assert lock(connection, "bank", DAY)
            taken.append(lock(following, "bank", DAY))
            following.execute("SELECT pg_advisory_unlock_all()")
    pool.dispose()
    assert all(taken)
