"""Whole sagas with their whole logs, page by page, for those who judge or archive them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from orchestrator.entries import Recorded, decoded
from orchestrator.state import TERMINAL, State
from orchestrator.storage.database import Database

PAGE = 500

HISTORIES = """
SELECT s.id, s.definition, s.definition_hash, s.key, s.state, s.seq, s.due_at IS NOT NULL,
    (SELECT count(*) FROM amends.attempt t WHERE t.saga_id = s.id),
    (SELECT json_agg(json_build_array(l.seq, l.kind, l.data, extract(epoch FROM l.recorded_at))
        ORDER BY l.seq)
     FROM amends.saga_log l WHERE l.saga_id = s.id)
FROM amends.saga s
WHERE s.id > %(after)s::uuid
ORDER BY s.id LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaHistory:
    """One saga: its row, its whole log and how many attempt rows it still has."""

    id: UUID
    definition: str
    definition_hash: str
    key: str
    state: State
    seq: int
    is_due: bool
    open_attempts: int
    entries: Sequence[Recorded]

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL


class Histories:
    """Reads sagas in the order of their ids; memory holds one page."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> Iterator[SagaHistory]:
        """Yield every saga; one that changes meanwhile is seen as it was at its page's moment."""
        after = UUID(int=0)
        while True:
            rows = self._database.run(HISTORIES, {"after": after, "limit": PAGE})
            for row in rows:
                yield _history(row)
            if len(rows) < PAGE:
                return
            after = rows[-1][0]


def _history(row: Sequence[Any]) -> SagaHistory:
    saga_id, definition, definition_hash, key, state, seq, is_due, open_attempts, entries = row
    return SagaHistory(
        id=saga_id,
        definition=definition,
        definition_hash=definition_hash,
        key=key,
        state=State(state),
        seq=seq,
        is_due=is_due,
        open_attempts=open_attempts,
        entries=[
            Recorded(seq=number, at=datetime.fromtimestamp(epoch, UTC), entry=decoded(kind, data))
            for number, kind, data, epoch in entries or ()
        ],
    )
