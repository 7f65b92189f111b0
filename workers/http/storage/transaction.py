"""A transaction for one request: committed when the block ends, rolled back when it raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy
from sqlalchemy.orm import Session

from orchestrator.errors import LogUnavailableError
from orchestrator.storage.callers_transaction import Transaction
from orchestrator.storage.database import MOVED, OURS


@contextmanager
def transaction(engine: sqlalchemy.Engine) -> Iterator[Transaction]:
    """Open a session, which tells of its commit: what was started in it rings right after.

    Raises:
        LogUnavailableError: Postgres failed, or is a standby since a fail-over; its connection is
            not used again. The work may be repeated.
    """
    with Session(engine) as session, session.begin():
        try:
            yield session
        except sqlalchemy.exc.DBAPIError as error:
            if isinstance(error.orig, (*OURS, *MOVED)):
                raise
            session.invalidate()
            raise LogUnavailableError(f"Postgres failed: {type(error.orig).__name__}") from error
