"""What goes into the saga log and what comes out of it, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from orchestrator.entries import Entry, Json, Recorded
from orchestrator.state import FoldedSaga, State

LOOK_SECONDS = 600.0
"""A running saga is looked at this often even if nothing seems to be wrong."""

RING_PATIENCE_SECONDS = 15.0
"""A message that led to no claim for this long is taken for lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptId:
    """Names one attempt: all that a message on the broker says."""

    saga_id: UUID
    step: str
    direction: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """An attempt to be written down with a decision.

    Args:
        delay_seconds: from now until it is due.
        rung: a message for it is published right after the commit.
        token, owner, lease_seconds: set when it is claimed in the same statement.
    """

    step: str
    direction: str
    number: int
    queue: str
    delay_seconds: float = 0.0
    timeout_seconds: float
    alone: bool = False
    rung: bool = False
    token: UUID | None = None
    owner: str | None = None
    lease_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSaga:
    """A saga to be started; `attempts` are its first steps."""

    id: UUID
    definition: str
    version: int
    definition_hash: str
    key: str
    fingerprint: str
    attributes: Mapping[str, Json]
    started: Entry
    deadline_seconds: float | None
    due_in_seconds: float
    trace: Mapping[str, str] | None
    state: State
    attempts: Sequence[Scheduled]
    lock: str | None = None
    lock_granted: bool = False
    parent_id: UUID | None = None
    parent_step: str | None = None
    replay_of: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaRow:
    """The saga's row, without its history."""

    id: UUID
    definition: str
    version: int
    definition_hash: str
    key: str
    fingerprint: str
    state: State
    seq: int
    looks: int = 0
    parent_id: UUID | None = None
    parent_step: str | None = None
    lock: str | None = None
    log_format: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """What a successful claim returns: the row, its history, and the database's time.

    `entries` are those after what `base` stands for, all of them where that is None.
    """

    saga: SagaRow
    base: FoldedSaga | None
    entries: list[Recorded]
    now: datetime
    timeout_seconds: float
    alone: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAttempt:
    """A row of `attempt` as recovery sees it.

    `ran_out`: its lease reached up to the attempt's timeout; its process may have lived until then.
    `is_held_up`: somebody held its saga's row when it was read.
    `lease_until`, `alone` and `timeout_seconds` are known where they were asked for.
    """

    id: AttemptId
    queue: str
    token: UUID | None
    owner: str | None
    is_expired: bool
    ran_out: bool = False
    is_held_up: bool = False
    lease_until: datetime | None = None
    alone: bool = False
    timeout_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A saga read at one moment: row, entries, attempts and the database's time.

    Args:
        base: the state that a checkpoint holds, where one was asked for; `entries` follow it.
    """

    saga: SagaRow
    entries: list[Recorded]
    attempts: list[OpenAttempt]
    now: datetime
    base: FoldedSaga | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """The attempt that a write ends: it must still be held by `token`.

    `only_expired`: and its lease must be over by the database's clock (a take-over).
    """

    id: AttemptId
    token: UUID
    only_expired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """What changes in a saga's row when it goes on under another version."""

    version: int
    definition_hash: str
    attributes: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """One compare-and-set on a saga.

    Args:
        seq: the seq it was decided at.
        due_in_seconds: when the saga itself is due next; None leaves that alone.
        schedule: *all* attempts that are wanted and not running; other unclaimed ones are
            withdrawn, those already written down stay as they are.
        current: step, direction and attempt an operator should see.
        tells: the saga has a parent to be told of its state, or a lock that others wait for.
        hurries: attempts of `schedule` that wait already come due as it says, too.
        migrated: the definition under which the saga goes on, if that is another one.
    """

    saga_id: UUID
    seq: int
    entries: Sequence[Entry]
    state: State
    due_in_seconds: float | None = None
    closing: Closing | None = None
    schedule: Sequence[Scheduled] = ()
    current: tuple[str, str, int] | None = None
    last_error: str | None = None
    looked: bool = False
    tells: bool = False
    hurries: bool = False
    migrated: Migrated | None = None
