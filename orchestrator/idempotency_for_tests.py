"""An idempotency store for the tests of your own functions: it forgets everything with its process.

It keeps the same contract as the one in Postgres, but for transactions.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from orchestrator.idempotency_heartbeat import IdempotencyHeartbeat
from orchestrator.idempotency_record import (
    Claim,
    Ending,
    Failed,
    IdempotencyRecord,
    IdempotencyState,
    Released,
    Succeeded,
    Unknown,
)


@dataclass(frozen=True, slots=True)
class _Row:
    """A record, the claim it came from, and until when it holds."""

    record: IdempotencyRecord
    claim: Claim
    lease_until: datetime
    timeout_at: datetime


class InMemoryIdempotencyStore:
    """An `IdempotencyStore` in a dictionary, for one process and its threads."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], _Row] = {}
        self._lock = threading.RLock()
        self._heartbeat = IdempotencyHeartbeat(self.extend)

    def claim(self, claim: Claim) -> IdempotencyRecord | None:
        """Take the key if it is free, and return the record as it stands then."""
        with self._lock:
            place = (claim.call.scope, claim.call.key)
            row = self._rows.get(place)
            if row is None or _is_free(row, claim):
                self._rows[place] = row = _claimed(claim)
            return _view(row)

    def kept(self, claim: Claim) -> AbstractContextManager[None]:
        """Keep the lease of a claim alive while the block runs, up to the claim's timeout."""
        return self._heartbeat.kept(claim)

    def extend(self, claims: Sequence[Claim]) -> None:
        """Extend the leases that are still held."""
        with self._lock:
            for claim in claims:
                place = (claim.call.scope, claim.call.key)
                row = self._rows.get(place)
                if row and row.record.token == claim.token:
                    until = min(_now() + timedelta(seconds=claim.lease_seconds), row.timeout_at)
                    self._rows[place] = replace(row, lease_until=until)

    def finish(self, claim: Claim, ending: Ending) -> IdempotencyRecord | None:
        """Write down how the call ended, if the claim's token still holds the key."""
        with self._lock:
            row = self._rows.get((claim.call.scope, claim.call.key))
            if row is None:
                return None
            record = row.record
            is_denied = record.settled_by and record.state is IdempotencyState.FAILED
            may_end = record.state is IdempotencyState.IN_PROGRESS or (
                is_denied and isinstance(ending, Succeeded)
            )
            if record.token == claim.token and may_end:
                row = self._end(row, ending, record.settled_by, record.settled_because)
            return _view(row)

    def settle(
        self,
        scope: str,
        key: str,
        ending: Ending,
        *,
        by: str,
        because: str,
        seen: UUID | None = None,
    ) -> IdempotencyRecord | None:
        """Write down how an unknown ended, and return the record; None when it is not unknown."""
        with self._lock:
            row = self._rows.get((scope, key))
            if row is None or _view(row).state is not IdempotencyState.UNKNOWN:
                return None
            if seen not in (None, row.record.token):
                return None
            return _view(self._end(row, ending, by, because))

    def read(self, scope: str, key: str) -> IdempotencyRecord | None:
        """Return the record, or None when there is none or it has expired."""
        with self._lock:
            row = self._rows.get((scope, key))
            return None if row is None or _has_expired(row) else _view(row)

    def unknown(self, limit: int = 100) -> list[IdempotencyRecord]:
        """Return what waits to be settled, the oldest first."""
        with self._lock:
            records = [_view(row) for row in self._rows.values() if not row.claim.repeatable]
        unknown = [each for each in records if each.state is IdempotencyState.UNKNOWN]
        return sorted(unknown, key=lambda each: each.claimed_at)[:limit]

    def prune(self, limit: int = 1000) -> int:
        """Delete up to `limit` expired records and return how many; what is unknown stays."""
        with self._lock:
            expired = [place for place, row in self._rows.items() if _has_expired(row)][:limit]
            for place in expired:
                del self._rows[place]
            return len(expired)

    def _end(self, row: _Row, ending: Ending, by: str | None, because: str | None) -> _Row:
        now = _now()
        keep = timedelta() if isinstance(ending, Released) else _keep(row.claim)
        is_unknown = isinstance(ending, Unknown)
        ended = replace(
            row.record,
            state=_state(ending),
            result=ending.result if isinstance(ending, Succeeded) else None,
            error=ending.error if isinstance(ending, Failed | Unknown) else None,
            ended_at=now,
            expires_at=None if is_unknown else now + keep,
            settled_by=by,
            settled_because=because,
        )
        row = replace(row, record=ended)
        self._rows[ended.call.scope, ended.call.key] = row
        return row


def _now() -> datetime:
    return datetime.now(UTC)


def _keep(claim: Claim) -> timedelta:
    return timedelta(seconds=claim.keep_seconds)


def _claimed(claim: Claim) -> _Row:
    now = _now()
    timeout_at = now + timedelta(seconds=claim.timeout_seconds)
    record = IdempotencyRecord(
        call=claim.call,
        state=IdempotencyState.IN_PROGRESS,
        token=claim.token,
        owner="this process",
        lease_left_seconds=None,
        result=None,
        error=None,
        claimed_at=now,
        ended_at=None,
        expires_at=timeout_at + _keep(claim) if claim.repeatable else None,
        settled_by=None,
        settled_because=None,
    )
    lease_until = min(now + timedelta(seconds=claim.lease_seconds), timeout_at)
    return _Row(record, claim, lease_until, timeout_at)


def _view(row: _Row) -> IdempotencyRecord:
    """The record as it stands now, with data of its own."""
    record = row.record
    if record.state is IdempotencyState.IN_PROGRESS:
        left = (row.lease_until - _now()).total_seconds()
        state = IdempotencyState.UNKNOWN if left < 0 else record.state
        return replace(record, state=state, lease_left_seconds=left)
    return replace(record, result=copy.deepcopy(record.result), error=copy.deepcopy(record.error))


def _is_free(row: _Row, claim: Claim) -> bool:
    is_lapsed = row.record.ended_at is None and row.lease_until < _now()
    may_repeat = row.claim.repeatable and claim.repeatable
    return _has_expired(row) or (is_lapsed and may_repeat and row.claim.call == claim.call)


def _has_expired(row: _Row) -> bool:
    return row.record.expires_at is not None and row.record.expires_at <= _now()


def _state(ending: Ending) -> IdempotencyState:
    match ending:
        case Succeeded():
            return IdempotencyState.SUCCEEDED
        case Failed() | Released():
            return IdempotencyState.FAILED
        case Unknown():
            return IdempotencyState.UNKNOWN
