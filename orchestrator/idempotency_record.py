"""What a store of idempotency keeps of a call, what a claim is answered, and what a store must do.

A key belongs to a *scope*, the operation: a refund that reuses a charge's key gets no charge. The
first call of (scope, key) claims it, runs, and writes down how it ended; every other call is
answered from what is written. Times are the store's clock, never the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, runtime_checkable
from uuid import UUID

from orchestrator.entries import Json
from orchestrator.errors import AmendsError


class IdempotencyInFlightError(AmendsError):
    """Another call with this key is still at work; ask again later, with the same key."""


class InvalidIdempotencyUsage(AmendsError):  # noqa: N818 - the seed's name
    """A function cannot be made idempotent in this way; the message names the fix."""


class SettlementRefusedError(AmendsError):
    """There is nothing to settle: the key is not there, is still at work, or is known.

    `state` is how the key stands, None when it is not there.
    """

    def __init__(self, message: str, *, state: IdempotencyState | None) -> None:
        super().__init__(message)
        self.state = state


class IdempotencyState(StrEnum):
    """How a key stands. A call whose lease is over without an end counts as unknown."""

    IN_PROGRESS = "in_progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


# How a call ended.


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """It returned; `result` is JSON."""

    result: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """No effect, and final; `error` is what `orchestrator.kept_errors` makes of the error."""

    error: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """It may have happened; `error` is None where the call never answered."""

    error: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """No effect, and worth another try: the key is free again."""


# What a claim is answered beside those.


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The caller holds the key for so long and runs."""

    lease_left_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InProgress:
    """Another caller holds the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """The key came with another payload before."""


Ending: TypeAlias = Succeeded | Failed | Unknown | Released
Answer: TypeAlias = Claimed | InProgress | Conflict | Succeeded | Failed | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One operation under one key; `fingerprint` is the hash of what it was called with."""

    scope: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A caller's wish to run a call.

    Args:
        token: random, made by the caller: it finds its own claim again after a lost answer.
        repeatable: running the call twice does no harm.
        lease_seconds: how long the claim lives without a sign of its process.
        timeout_seconds: how long it lives at all.
        keep_seconds: how long the end is remembered.
    """

    call: Call
    token: UUID
    repeatable: bool
    lease_seconds: float
    timeout_seconds: float
    keep_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyRecord:
    """A key as it stands in the store.

    `expires_at` is None for what is not settled: that is never forgotten.
    """

    call: Call
    state: IdempotencyState
    token: UUID | None
    owner: str | None
    lease_left_seconds: float | None
    result: Json
    error: Json
    claimed_at: datetime
    ended_at: datetime | None
    expires_at: datetime | None
    settled_by: str | None
    settled_because: str | None

    def answers(self, call: Call, token: UUID | None = None) -> Answer:
        """Return what the record says to a caller of `call` that claims with `token`."""
        is_running = self.state is IdempotencyState.IN_PROGRESS
        if is_running and token is not None and token == self.token:
            return Claimed(lease_left_seconds=self.lease_left_seconds or 0.0)
        if call.fingerprint != self.call.fingerprint:
            return Conflict()
        match self.state:
            case IdempotencyState.IN_PROGRESS:
                return InProgress()
            case IdempotencyState.SUCCEEDED:
                return Succeeded(result=self.result)
            case IdempotencyState.FAILED:
                return Failed(error=self.error)
            case IdempotencyState.UNKNOWN:
                return Unknown(error=self.error)


class IdempotencyStore(Protocol):
    """Keeps records. Every method is atomic and may raise `LogUnavailableError`.

    After that error nobody knows whether the method took effect; `claim` and `finish` are then
    called again with the same token, and answer as the first call would have.
    """

    def claim(self, claim: Claim) -> IdempotencyRecord | None:
        """Take the key if it is free, and return the record as it stands then.

        Free is a key that nobody used, whose record has expired, or whose caller is gone, had the
        same payload, and was `repeatable` as this one is. None: somebody was faster; ask again.
        """
        ...

    def kept(self, claim: Claim) -> AbstractContextManager[None]:
        """Keep the lease of a claim alive while the block runs, up to the claim's timeout."""
        ...

    def finish(self, claim: Claim, ending: Ending) -> IdempotencyRecord | None:
        """Write down how the call ended, and return the record as it stands then, if there is one.

        Nothing is written when another token holds the key, or somebody settled it. Only a success
        overrules a settlement that denied it: it is the truth.
        """
        ...

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
        """Write down how an unknown ended, and return the record.

        None when it is not unknown, or its token is another than the one that was `seen`.
        """
        ...

    def read(self, scope: str, key: str) -> IdempotencyRecord | None:
        """Return the record, or None when there is none or it has expired."""
        ...

    def unknown(self, limit: int = 100) -> Sequence[IdempotencyRecord]:
        """Return what waits to be settled, the oldest first."""
        ...

    def prune(self, limit: int = 1000) -> int:
        """Delete up to `limit` expired records and return how many; what is unknown stays."""
        ...


class CallersRecords(Protocol):
    """Records read and written inside a transaction that belongs to the caller."""

    def lock(self, call: Call) -> bool:
        """Take the key until the transaction ends; False when another transaction has it."""
        ...

    def read(self, call: Call) -> IdempotencyRecord | None:
        """Return the record, or None when the key is free."""
        ...

    def savepoint(self) -> AbstractContextManager[None]:
        """Undo what the block wrote when it raises; refuse to let it end the transaction.

        Raises:
            InvalidIdempotencyUsage: the block committed or rolled back.
        """
        ...

    def write(self, claim: Claim, ending: Ending) -> IdempotencyRecord | None:
        """Write down how the call ended; None when the key is no longer free."""
        ...


@runtime_checkable
class TransactionalIdempotencyStore(IdempotencyStore, Protocol):
    """A store whose records can be part of a caller's transaction."""

    def inside(self, transaction: Any) -> CallersRecords:
        """Return the records as seen and written in a SQLAlchemy Session or Connection."""
        ...
