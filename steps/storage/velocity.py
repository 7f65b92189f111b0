"""Counts attempts in Postgres, one subject at a time, by the database's clock.

Two statements under one lock per subject: the count's snapshot is taken once the lock is held, so
of two attempts at the same time the later one sees both, and `recorded_at` follows that order.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import sqlalchemy
from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from orchestrator.seam import durable
from steps.storage.tables import fraud_attempt

KEPT: Final = timedelta(days=7)
"""Longer than any window, and than any saga's step is still delivered again."""

_BATCH: Final = 10_000


class PostgresVelocityTracker:
    """A `VelocityTracker` on the shop's table; a resource of the steps, one per process.

    Whatever Postgres raises goes through: an attempt that cannot be counted has no number.
    """

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self._engine = engine.execution_options(isolation_level="READ COMMITTED")

    def record(
        self, subject: str, attempt_id: str, window: timedelta, *, up_to: int | None = None
    ) -> int:
        """Keep the attempt once and return the count of its window, as the protocol says.

        Subjects are stored as given: pass a digest of what names a person.
        """
        ours = (fraud_attempt.c.subject == subject, fraud_attempt.c.attempt_id == attempt_id)
        moment = select(fraud_attempt.c.recorded_at).where(*ours).scalar_subquery()
        counted = (
            select(fraud_attempt.c.recorded_at)
            .where(
                fraud_attempt.c.subject == subject,
                fraud_attempt.c.recorded_at > moment - window,
                fraud_attempt.c.recorded_at <= moment,
            )
            .limit(up_to)
            .subquery()
        )
        count = select(func.count()).select_from(counted)

        def write() -> int:
            with self._engine.begin() as connection:
                connection.execute(
                    select(func.pg_advisory_xact_lock(func.hashtextextended(subject, 0)))
                )
                connection.execute(
                    insert(fraud_attempt)
                    .values(subject=subject, attempt_id=attempt_id)
                    .on_conflict_do_nothing()
                )
                return connection.execute(count).scalar_one()

        return durable("shop.record_attempt", write)

    def prune(self, older_than: timedelta = KEPT) -> int:
        """Delete attempts that are older and return how many; keep the longest window's and more.

        An attempt that is delivered again after it was pruned counts as a new one. A database
        without the shop's schema has none. Needs the rights of `amends_worker` or `amends_janitor`.
        """
        if not sqlalchemy.inspect(self._engine).has_table(fraud_attempt.name, fraud_attempt.schema):
            return 0
        rows = tuple_(fraud_attempt.c.subject, fraud_attempt.c.attempt_id)
        old = (
            select(fraud_attempt.c.subject, fraud_attempt.c.attempt_id)
            .where(fraud_attempt.c.recorded_at < func.clock_timestamp() - older_than)
            .limit(_BATCH)
        )

        def write() -> int:
            with self._engine.begin() as connection:
                return connection.execute(delete(fraud_attempt).where(rows.in_(old))).rowcount

        pruned = 0
        while some := durable("shop.prune_attempts", write):
            pruned += some
        return pruned
