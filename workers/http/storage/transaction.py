"""A transaction for one request: committed when the block ends, rolled back when it raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy
from sqlalchemy.orm import Session

from orchestrator.storage.callers_transaction import Transaction


@contextmanager
def transaction(engine: sqlalchemy.Engine) -> Iterator[Transaction]:
    """Open a session, which tells of its commit: what was started in it rings right after."""
    with Session(engine) as session, session.begin():
        yield session
