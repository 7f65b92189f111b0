"""What a saga's log says about it, as a plain value. `orchestrator.folding` makes it.

Saga phases, and the entries that change them (the table is `PHASES`):

    running ──UnwindingStarted──▶ compensating ──SagaCompensated──▶ compensated ┐
      │  │                          │        ▲                                  │
      │  └─SagaParked─▶ stuck       │        └────UnwindingStarted (late)───────┘
      └─SagaCompleted─▶ completed   └─SagaParked─▶ failed_compensation

    completed ──UnwindingStarted──▶ compensating    an effect too many, or the parent is taken back
    any parked ──SagaUnparked──▶ where it was       the question was answered
    any but an ended one ──SagaResolved──▶ resolved an operator closed it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from orchestrator.entries import (
    CancelRequested,
    Direction,
    Entry,
    Json,
    Outcome,
    Recorded,
    SagaCompensated,
    SagaCompleted,
    SagaParked,
    SagaResolved,
    SagaUnparked,
    SignalReceived,
    StepUnknown,
    StepWaiting,
    UndoRequested,
    UnwindingStarted,
)
from orchestrator.errors import NotKeptError


class State(StrEnum):
    """The states of a saga as everybody sees them."""

    RUNNING = "running"
    WAITING = "waiting"
    COMPENSATING = "compensating"
    FAILED_COMPENSATION = "failed_compensation"
    STUCK = "stuck"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    RESOLVED = "resolved"


PARKED = frozenset({State.FAILED_COMPENSATION, State.STUCK})
TERMINAL = frozenset({State.COMPLETED, State.COMPENSATED, State.RESOLVED})
UNENDED = frozenset(State) - TERMINAL

UNREADABLE = "unreadable"
"""Why a saga is parked whose log does not fold, or holds what nobody may have written."""

UNDECIDABLE = "undecidable"
"""Why a saga is parked on which deciding raises: a bug, or a definition's function."""

PAYLOAD = "payload"
"""Why a saga is parked whose payload does not fit its definition's model any more."""

SET_ASIDE = frozenset({UNREADABLE, UNDECIDABLE, PAYLOAD})
"""Reasons for which a saga is parked by who could not handle it, wherever it stands."""

SECOND_EFFECT = "second_effect"
"""Cause of an unwinding that takes back only what happened twice."""

UNDO_REQUESTED = "undo_requested"
"""Cause of an unwinding that the saga's parent asked for."""

PHASES: Mapping[tuple[State, type[Entry]], State | None] = MappingProxyType(
    {
        (State.RUNNING, UnwindingStarted): State.COMPENSATING,
        (State.RUNNING, SagaCompleted): State.COMPLETED,
        (State.RUNNING, SagaParked): None,  # the entry names the state
        (State.RUNNING, SagaResolved): State.RESOLVED,
        (State.COMPENSATING, SagaCompensated): State.COMPENSATED,
        (State.COMPENSATING, SagaCompleted): State.COMPLETED,  # after a second effect only
        (State.COMPENSATING, SagaParked): None,
        (State.COMPENSATING, SagaResolved): State.RESOLVED,
        (State.COMPENSATED, UnwindingStarted): State.COMPENSATING,
        (State.COMPLETED, UnwindingStarted): State.COMPENSATING,
        (State.STUCK, SagaUnparked): None,  # back to where it was parked
        (State.STUCK, SagaResolved): State.RESOLVED,
        (State.FAILED_COMPENSATION, SagaUnparked): None,
        (State.FAILED_COMPENSATION, SagaResolved): State.RESOLVED,
    }
)
"""Every legal change of phase. Waiting is running with nothing to run, not a phase of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEffect:
    """Something a step did outside.

    Args:
        seq: where the log tells of it.
        reference: the other side's name for it.
        is_open: it was begun there, as a wait tells, and may take effect yet.
        generation: which of the step's idempotency keys it was done under, from 1; None: who told
            of it did not know.
        covered: a compensation accounts for it.
        undone: a compensation of the step itself really undid it.
        undo_reference: the other side's name for what undid it.
        undo_generation: which idempotency key its undoing uses.
    """

    seq: int
    attempt: int
    reference: str | None = None
    result: Json = None
    is_open: bool = False
    generation: int | None = 1
    covered: bool = False
    undone: bool = False
    undo_reference: str | None = None
    undo_generation: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """How one step stands in one direction.

    Args:
        attempts: the highest attempt number that was started.
        released: attempts that were handed back before the step was called.
        open_attempt: the attempt that runs now.
        started_seq, started_at: where and when the latest attempt was started.
        key_since: when the first attempt under the present idempotency key was started.
        generation: which of the step's keys the latest attempt used, or asked about.
        failures: attempts without effect that spent the budget.
        unknowns: attempts of unknown outcome that were not a crash.
        crashes: attempts that took their worker down or lost their lease.
        unsettled: at least one attempt may have happened and nothing decisive was heard since; of
            the step's present key only, since the keys before it are settled.
        ended_at: the database's time when the latest attempt ended.
        last: how it ended.
        failed: it ended for good, without effect.
        done: it ended for good, well.
        waited: the latest attempt follows a wait that is over.
        acts_on: seq of the known effect that the latest attempt of an undo was given, or 0.
    """

    attempts: int = 0
    released: int = 0
    open_attempt: int | None = None
    started_seq: int = 0
    started_at: datetime | None = None
    key_since: datetime | None = None
    generation: int = 1
    failures: int = 0
    unknowns: int = 0
    crashes: int = 0
    unsettled: bool = False
    ended_at: datetime | None = None
    last: Outcome | None = None
    failed: bool = False
    done: bool = False
    waited: bool = False
    acts_on: int = 0

    @property
    def is_kept(self) -> bool:
        """Whether repeating the latest attempt would only repeat its answer, and settle nothing."""
        return isinstance(self.last, StepUnknown) and self.last.is_kept

    @property
    def is_under_way(self) -> bool:
        """Whether an attempt runs, waits for its answer, or may have taken effect."""
        return self.open_attempt is not None or self.unsettled or isinstance(self.last, StepWaiting)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepState:
    """How one step stands: doing, undoing, asking of both, its effects and what was heard about it.

    Args:
        effect: the known effect that counts as the step's, or None: the one it was done with.
            Steps after it work with that one; what is heard of later is only to be undone.
        begun: what waits told of and no success accounts for: each has to be undone by its own
            reference, and "it is not there" is no answer of it.
        waits_on: the reference of the latest wait under the present idempotency key.
        denials: when the probes and undos were started that were told, since the latest attempt,
            "not there". `undo_denials`: when those were that were told of its undo that it did not
            take effect, since the latest attempt to undo.
        undone_seq: how far a compensation of the step accounts for its log.
        undone: the compensation really undid something: a known effect, or one it found itself.
        undone_by: the step whose compensation undid this step's effect too.
        undo_reference: the other side's name for what an undo found itself and undid.
        settled_attempts: the last attempt under each key that was settled as not landed for good.
        undo_generation: the highest of its undoing so far, and that of an undo which is given no
            known effect.
        key_name: the name that its keys are derived from, if a migration has renamed the step.
        signals_used: how many signals of each name were already delivered to it.
        signal: the signal that ended its latest wait, for all attempts up to the next wait; None
            when the wait ended by its deadline.
    """

    forward: Track = Track()
    undo: Track = Track()
    probe: Track = Track()
    undo_probe: Track = Track()
    effects: tuple[RecordedEffect, ...] = ()
    effect: RecordedEffect | None = None
    begun: tuple[RecordedEffect, ...] = ()
    waits_on: str | None = None
    skipped: bool = False
    denials: tuple[datetime, ...] = ()
    undo_denials: tuple[datetime, ...] = ()
    undone_seq: int = 0
    undone: bool = False
    undone_by: str | None = None
    undo_reference: str | None = None
    settled_attempts: tuple[int, ...] = ()
    undo_generation: int = 1
    key_name: str | None = None
    signals_used: Mapping[str, int] = field(default_factory=dict)
    signal: SignalReceived | None = None

    @property
    def generation(self) -> int:
        """Which idempotency key the step uses; it rises when the one before is settled for good."""
        return 1 + len(self.settled_attempts)

    def generation_of(self, attempt: int) -> int:
        """Return which key the attempt of that number used."""
        return 1 + sum(last < attempt for last in self.settled_attempts)

    def has_effect_of(self, generation: int | None) -> bool:
        """Whether an effect is known that was done under that key."""
        return any(each.generation == generation for each in self.effects)

    @property
    def is_done(self) -> bool:
        """Whether steps that come after this one may start.

        Not while its present key may still have an effect, though one before it proved to have.
        """
        if self.skipped:
            return True
        if not self.effects or self.forward.open_attempt is not None:
            return False
        return self.has_effect_of(self.generation) or not self.forward.is_under_way

    @property
    def uncovered_effect(self) -> RecordedEffect | None:
        """The effect to undo next of those that no compensation accounts for, or None."""
        return self._next_to_undo([each for each in self.outside if not each.covered])

    @property
    def is_undone(self) -> bool:
        """Whether a compensation of the step undid the effect that counts, or what it found."""
        if self.effect is None:
            return self.undone
        return any(each.undone for each in self.effects if each.seq == self.effect.seq)

    @property
    def second_effect(self) -> RecordedEffect | None:
        """The same of those beside the one that counts as the step's."""
        counts = None if self.effect is None else self.effect.seq
        return self._next_to_undo([e for e in self.outside if not e.covered and e.seq != counts])

    @property
    def is_begun(self) -> bool:
        """Whether a wait was told of something outside that nothing accounts for yet."""
        return any(not each.covered for each in self.begun)

    @property
    def outside(self) -> tuple[RecordedEffect, ...]:
        """The known effects, and what was begun and may become one."""
        return (*self.effects, *self.begun)

    def _next_to_undo(self, uncovered: Sequence[RecordedEffect]) -> RecordedEffect | None:
        """The oldest; but what an undo has begun it also ends, under the same key."""
        begun = self.undo.acts_on if self.undo.is_under_way else 0
        return min(uncovered, key=lambda each: (each.seq != begun, each.seq), default=None)

    def track(self, direction: str) -> Track:
        """Return the doing, the undoing, or the asking of either."""
        return next(track for each, track in self.tracks if each == direction)

    @property
    def tracks(self) -> Iterator[tuple[Direction, Track]]:
        """Each direction with how the step stands in it."""
        yield Direction.FORWARD, self.forward
        yield Direction.COMPENSATE, self.undo
        yield Direction.PROBE, self.probe
        yield Direction.PROBE_UNDO, self.undo_probe

    @property
    def is_open(self) -> bool:
        """Whether an attempt of it runs now."""
        return any(track.open_attempt is not None for _, track in self.tracks)


_FRESH = StepState()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardSignals:
    """The signals of one name, in the order of arrival, by their place from 0.

    Fresh from the whole log it holds them all, in `late`. A checkpoint keeps those that are next to
    be read, in `early`, and the last one; whoever needs another reads the log.

    Args:
        early_from, late_from: the place of the first of each.
    """

    early: tuple[SignalReceived, ...] = ()
    early_from: int = 0
    late: tuple[SignalReceived, ...] = ()
    late_from: int = 0

    def __len__(self) -> int:
        """How many were received, kept or not."""
        return self.late_from + len(self.late)

    def __getitem__(self, place: int) -> SignalReceived:
        """Return the signal at a place; -1 is the last.

        Raises:
            IndexError: fewer were received.
            NotKeptError: it was, and is in the log only.
        """
        at = place + len(self) if place < 0 else place
        if not 0 <= at < len(self):
            raise IndexError(place)
        if at >= self.late_from:
            return self.late[at - self.late_from]
        if 0 <= at - self.early_from < len(self.early):
            return self.early[at - self.early_from]
        raise NotKeptError(f"signal {at} is not in the checkpoint, only in the log")

    def and_then(self, signal: SignalReceived) -> HeardSignals:
        """Return these and one more."""
        return replace(self, late=(*self.late, signal))

    def cut(self, unread_from: int, most: int) -> HeardSignals:
        """Return at most `most` of them from a place on, and the last one."""
        count = len(self)
        if count - unread_from <= most and unread_from >= self.late_from:
            kept = min(unread_from, count - 1)
            return HeardSignals(late=self.late[kept - self.late_from :], late_from=kept)
        window: list[SignalReceived] = []
        for place in range(unread_from, min(unread_from + most, count - 1)):
            try:
                window.append(self[place])
            except NotKeptError:
                break
        return HeardSignals(
            early=tuple(window),
            early_from=unread_from if window else 0,
            late=self.late[-1:],
            late_from=count - 1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingAssertion:
    """What an operator says and a second person has not confirmed; as `EvidenceAsserted`.

    Args:
        seq: where the log tells of it; its name.
        until: from then on it cannot be confirmed any more.
    """

    seq: int
    verb: str
    step: str | None
    words: Mapping[str, Json]
    identity: str
    actor: str
    reason: str
    why: str
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedSaga:
    """A saga at one seq of its log.

    Args:
        lock: what it locks; it does not begin before `lock_granted`.
        parked_from: the phase to go on in when the question of `parked` is answered.
        money: the entries that tell of money; `orchestrator.books` reads them.
        renamed: names of steps by those that they had before the saga was migrated.
        voided: seqs of entries that an operator found to be no facts.
        installation: the one that it was started in, and that its keys name.
        assertions: what operators say that a second person has to confirm; expired ones too. They
            lapse when anything else happens to the saga.
        by_word_of: the two whose unverified word was taken, once one was: the saga ends only
            `resolved` then.
    """

    seq: int = 0
    phase: State = State.RUNNING
    steps: Mapping[str, StepState] = field(default_factory=dict)
    payload: Json = None
    deadline_at: datetime | None = None
    trace: Mapping[str, str] | None = None
    lock: str | None = None
    lock_granted: bool = False
    parent_id: str | None = None
    installation: str | None = None
    cancel: CancelRequested | None = None
    is_cancel_refused: bool = False
    undo_request: UndoRequested | None = None
    unwinding: UnwindingStarted | None = None
    signals: Mapping[str, HeardSignals] = field(default_factory=dict)
    parked: SagaParked | None = None
    parked_from: State = State.RUNNING
    money: tuple[Recorded, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    voided: frozenset[int] = frozenset()
    assertions: tuple[PendingAssertion, ...] = ()
    by_word_of: tuple[str, ...] = ()

    def pending_assertions(self, now: datetime) -> tuple[PendingAssertion, ...]:
        """Return the assertions that may still be confirmed."""
        return tuple(each for each in self.assertions if now < each.until)

    def step(self, name: str) -> StepState:
        """Return how the step stands; a step nothing happened to is fresh."""
        return self.steps.get(name, _FRESH)

    def effect_to_undo(self, name: str) -> RecordedEffect | None:
        """The known effect that the next undo of the step is for."""
        step = self.step(name)
        return step.second_effect if self.undoes_second_effects_only else step.uncovered_effect

    @property
    def undoes_second_effects_only(self) -> bool:
        """Whether the saga had completed and takes back only what happened twice."""
        return (
            self.phase in (State.COMPENSATING, State.FAILED_COMPENSATION)
            and self.unwinding is not None
            and self.unwinding.cause == SECOND_EFFECT
        )

    @property
    def is_open(self) -> bool:
        """Whether an attempt of any step runs now."""
        return any(each.is_open for each in self.steps.values())

    @property
    def is_terminal(self) -> bool:
        """Whether the saga has ended; a late effect may reopen some ends."""
        return self.phase in TERMINAL
