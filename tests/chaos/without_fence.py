"""A worker that imports this records results without asking whose token holds the attempt."""

from __future__ import annotations

import re

from orchestrator.storage import statements
from steps.checkout import checkout

__all__ = ["checkout"]


def unfenced(statement: str) -> str:
    """The statement that appends an outcome, without its look at the token."""
    appends = re.sub(
        r"WITH closed AS .*?\), moved AS \(", "WITH moved AS (", statement, flags=re.DOTALL
    )
    appends = appends.replace(
        "FROM closed WHERE s.id = closed.saga_id", "WHERE s.id = %(saga_id)s"
    ).replace("due_at = clock_timestamp(),", "")
    assert "token" not in appends
    assert appends != statement
    return appends


statements.APPEND_OUTCOME = unfenced(statements.APPEND_OUTCOME)
