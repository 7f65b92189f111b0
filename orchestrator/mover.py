"""Moving a saga that no attempt of this process holds: after a lost lease, a fact, a due time.

The same reading, deciding and writing serves the sweep, take-overs, late outcomes and requests. It
is idempotent, so any number of sweepers may do it at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from orchestrator import checkpoints, outcomes
from orchestrator.announcing import announce, announce_heard
from orchestrator.definition import SagaDefinition
from orchestrator.definitions import Definitions
from orchestrator.doorbell import Doorbell, SilentDoorbell, ring_each
from orchestrator.entries import (
    Entry,
    LateOutcomeRecorded,
    SagaLockGranted,
    UnknownReason,
)
from orchestrator.errors import HistoryError, InstallationError, LogUnavailableError
from orchestrator.folding import replay
from orchestrator.installation import Installation
from orchestrator.instrumentation import emit
from orchestrator.late_effects import late_question
from orchestrator.planning import rings, tells
from orchestrator.reconciling import Facts, reconciled
from orchestrator.state import UNENDED, FoldedSaga, State
from orchestrator.storage.database import Locked, Moved
from orchestrator.storage.rows import Advance, Closing, Migrated, OpenAttempt, SagaRow, Snapshot
from orchestrator.storage.saga_log import SagaLog
from orchestrator.storage.signals import Heard, Signals
from orchestrator.storage.tombstones import Tombstones
from orchestrator.troubles import NewerLogError, Troubles, brief, folded, is_its_own

MOVE_TRIES = 30
"""Every lost round means that somebody else moved the saga; thirty in a row mean a bug."""

ADD_SECONDS = 5.0
"""How long somebody who tells a saga of a fact is kept waiting while its row is locked."""

RECORD_GRACE_SECONDS = 60.0
"""How long a finished outcome is offered to a database that does not answer."""

RECORD_PAUSE_SECONDS = 0.05
"""Between two offers of an outcome to a database that reads but does not write."""

_AT_EXPIRY = (UnknownReason.LEASE_LOST, UnknownReason.TIMED_OUT)
"""Reasons that hold only once the lease is over by the database's clock."""


PASS_ON_MOST = 100
"""So many sagas that an end lets go on are looked at by who recorded it."""

FactsOf = Callable[[Snapshot, FoldedSaga], Facts | None]
"""From a saga just read to what is to be added; None means there is nothing to do."""


class _Ended(threading.local):
    """Sagas whose end one thread still has to pass on."""

    def __init__(self) -> None:
        self.sagas: list[SagaRow] = []


class Mover:
    """Reads sagas, decides, and makes their attempt rows agree with the decision.

    A saga of an installation that this one was copied from is left alone, like one whose definition
    is not here.

    What a move schedules is rung for after its commit, one saga after the other. Who moves many
    says `will_ring=False`: then the rows are due and not rung, and whoever sweeps next rings for
    all of them at once.
    """

    def __init__(
        self,
        log: SagaLog,
        signals: Signals,
        tombstones: Tombstones,
        definitions: Definitions,
        doorbell: Doorbell,
        troubles: Troubles,
        installation: Installation,
    ) -> None:
        self._log = log
        self._signals = signals
        self._tombstones = tombstones
        self._troubles = troubles
        self._ended = _Ended()
        self._newer: set[UUID] = set()
        self._definitions = definitions
        self._doorbell = doorbell
        self._installation = installation

    def look(self, saga_id: UUID, *, will_ring: bool = True) -> State | None:
        """Decide again from the log and return the saga's state; None if its definition is foreign.

        Idempotent: a saga in order is only given its next due time. One with which nothing can be
        done is set aside, and None returned: its trouble is not the caller's.
        """
        try:
            return self._move(saga_id, self._seen, will_ring=will_ring)
        except HistoryError:
            return None

    def set_aside(self, saga_id: UUID, error: Exception, reason: str | None = None) -> None:
        """Park a saga because of what was raised while it was handled; see `Troubles`."""
        self._troubles.set_aside(saga_id, error, reason)

    def add(
        self, saga_id: UUID, fact: Entry, *, unless: Callable[[Snapshot, FoldedSaga], bool]
    ) -> State | None:
        """Log a fact, wherever the saga stands, also after its end, and decide what follows.

        Returns the saga's state; None where this process has not its definition, an operator closed
        the saga, or there is none: then nothing was logged.

        Args:
            unless: tells of a saga, as it is read, to which the fact is an old one.

        Raises:
            HistoryError: nothing can be done with the saga; nothing was logged.
            LogUnavailableError: its row was locked for `ADD_SECONDS`; nothing was logged.
        """

        def facts(snapshot: Snapshot, state: FoldedSaga) -> Facts | None:
            return None if unless(snapshot, state) else Facts(entries=(fact,))

        until = time.monotonic() + ADD_SECONDS
        return self._move(saga_id, facts, waits_until=until, moves_resolved=False)

    def add_late(self, saga_id: UUID, fact: Entry) -> bool:
        """Log a fact about an ended saga on which nothing is decided here, and alert somebody.

        It is decided on by whoever has the definition, except where an operator closed the saga.
        False: it has not ended, or knows of it.

        Raises:
            Moved: somebody holds its row; nothing was logged.
        """
        added = self._log.append_late(saga_id, fact, question=late_question(fact))
        if added:
            emit("saga.late_effect", saga_id=saga_id, step=getattr(fact, "step", None))
        return added

    def act(
        self,
        snapshot: Snapshot,
        entries: Sequence[Entry],
        *,
        hurries: bool = False,
    ) -> State | None:
        """Write what an operator decided about a saga as it was read, and what follows from it.

        Returns the saga's state; None when it has moved since, or somebody holds its row: then
        nothing was written.

        Args:
            hurries: attempts that wait for their pause come due now.

        Raises:
            LogUnavailableError: it may have been written; a second `act` on this snapshot is safe.
        """
        definition = self._known(snapshot)
        change, _ = reconciled(
            definition,
            snapshot,
            replay(snapshot.entries, snapshot.base),
            Facts(entries=entries),
            will_ring=not isinstance(self._doorbell, SilentDoorbell),
            hurries=hurries,
        )
        return self._acted(snapshot.saga, change, definition)

    def note(
        self,
        saga: SagaRow,
        entries: Sequence[Entry],
        *,
        state: State,
        migrated: Migrated | None = None,
        due_in_seconds: float | None = None,
    ) -> State | None:
        """Write entries after which nothing is to be decided, whatever the definition; as `act`.

        Args:
            state: the saga's state with them; attempts that wait are withdrawn.
            migrated: the version that it goes on under, if that is another one.
            due_in_seconds: when it is to be looked at; None: as before.
        """
        change = Advance(
            saga_id=saga.id,
            seq=saga.seq,
            entries=entries,
            state=state,
            tells=tells(saga, state),
            migrated=migrated,
            due_in_seconds=due_in_seconds,
        )
        return self._acted(saga, change, None)

    def _acted(
        self, saga: SagaRow, change: Advance, definition: SagaDefinition[Any] | None
    ) -> State | None:
        try:
            moved = self._write(change)
        except Locked:
            return None
        if not moved:
            return None
        self._tell(saga, change, definition)
        return change.state

    def deliver(self) -> int:
        """Deliver signals that nobody has delivered yet; return how many: their sagas are due.

        One saga that cannot hear is set aside; the others hear, each by itself.
        """
        try:
            heard = self._signals.deliver_all()
        except Exception as error:
            if not is_its_own(error):
                raise
            heard = self._deliver_to_each()
        announce_heard(heard)
        return len(heard)

    def _deliver_to_each(self) -> list[Heard]:
        heard: list[Heard] = []
        for saga_id in self._signals.awaited_by():
            try:
                heard += self._signals.deliver(saga_id=saga_id)
            except Moved:
                continue
            except Exception as error:
                if not is_its_own(error):
                    raise
                self.set_aside(saga_id, error)
        return heard

    def hear(
        self,
        *,
        saga_id: UUID | None = None,
        definition: str | None = None,
        key: str | None = None,
    ) -> UUID | None:
        """Deliver to one saga what it has not heard yet, and return its id; None: that is nothing.

        Raises:
            Moved: somebody holds its row; the sweep delivers it.
            HistoryError: it cannot hear; whoever sweeps sets it aside, and it hears after that.
        """
        try:
            heard = self._signals.deliver(saga_id=saga_id, definition=definition, key=key)
        except Exception as error:
            if not is_its_own(error):
                raise
            raise HistoryError(f"a saga cannot hear its signals: {brief(error)}") from error
        announce_heard(heard)
        return heard[0].saga_id if heard else None

    def hear_early(self, saga_id: UUID) -> None:
        """Let a saga that begins to wait hear what came before it existed; the sweep does too."""
        try:
            if self.hear(saga_id=saga_id) is not None:
                self.look(saga_id)
        except Exception as error:  # noqa: BLE001 - its record is done; the sweep delivers
            emit("saga.look_failed", saga_id=saga_id, error=brief(error))

    def pass_on(self, saga: SagaRow) -> None:
        """After a saga has ended, or parked: let those look that waited for it; the sweep does too.

        Its parent hears of it, and who is next in line for its lock begins. That may end those, and
        so on: they are taken one after the other, and after `PASS_ON_MOST` of them left to the
        sweep, for which they are due already.
        """
        waiting = self._ended.sagas
        waiting.append(saga)
        if len(waiting) > 1:
            return  # whoever passes on further up goes on with it
        passed = 0
        try:
            while passed < len(waiting) and passed < PASS_ON_MOST:
                self._pass_on_one(waiting[passed])
                passed += 1
        finally:
            waiting.clear()

    def _pass_on_one(self, saga: SagaRow) -> None:
        try:
            if saga.parent_id is not None:
                self.hear(saga_id=saga.parent_id)
                self.look(saga.parent_id)
            following = None if saga.lock is None else self._log.next_in_line(saga.lock)
            if following is not None:
                self.look(following)
        except Exception as error:  # noqa: BLE001 - the saga itself has ended; the sweep does it
            emit("saga.look_failed", saga_id=saga.id, error=brief(error))

    def _seen(self, snapshot: Snapshot, state: FoldedSaga) -> Facts:
        entries = _lost(self._known(snapshot), snapshot, state)
        is_in_line = state.lock is not None and not state.lock_granted
        if is_in_line and state.phase is State.RUNNING and self._log.grant_lock(snapshot.saga.id):
            entries.append(SagaLockGranted())
        return Facts(entries=entries)

    def give_up(
        self, attempt: OpenAttempt, reason: UnknownReason, *, will_ring: bool | None = None
    ) -> bool:
        """Record that an attempt will not answer any more, and go on; False if it did after all.

        A lost lease counts only once it is over by the database's clock. A process that is about to
        end rings for nothing unless told to: a silent broker would cost it the time in which it can
        give up its other attempts.
        """
        gave_up = False

        def facts(snapshot: Snapshot, state: FoldedSaga) -> Facts | None:
            nonlocal gave_up
            waits = reason in _AT_EXPIRY and not _is_expired(snapshot, attempt)
            if waits or attempt.token is None or not _is_held(snapshot, attempt):
                gave_up = False
                return None
            closing = Closing(id=attempt.id, token=attempt.token, only_expired=reason in _AT_EXPIRY)
            gave_up = _is_open(state, attempt)
            if not gave_up:
                return Facts(closing=closing)  # the log knows no such attempt: a row too many
            step = self._known(snapshot).step(attempt.id.step)
            outcome = outcomes.given_up(step, attempt.id.direction, attempt.id.number, reason)
            return Facts(entries=(outcome,), closing=closing)

        if will_ring is None:
            will_ring = reason is not UnknownReason.DRAINED
        try:
            moved = self._move(attempt.id.saga_id, facts, will_ring=will_ring)
        except HistoryError:
            return False
        return moved is not None and gave_up

    def keep_late(self, saga_id: UUID, late: LateOutcomeRecorded, *, since: int = 0) -> None:
        """Log a refused result, once, and decide what an unexpected effect leads to.

        As patient as the record of any outcome: nobody else knows of this one. A saga that goes on,
        or has ended, under a version which is not here is decided on by who has that; of one that
        has ended somebody is told as well. One that was pruned comes
        back as `stuck`, with the question. Where even its tombstone is gone observers are told,
        with all that is known.

        Args:
            since: the seq at which the attempt was claimed; it is late after that.

        Raises:
            LogUnavailableError: Postgres did not answer for `RECORD_GRACE_SECONDS`.
        """

        def facts(snapshot: Snapshot, state: FoldedSaga) -> Facts | None:  # noqa: ARG001
            entries = self._log.entries(saga_id, after=since)
            known = any(_is_about(each.entry, late) for each in entries)
            return None if known else Facts(entries=(late,))

        placed = False
        try:
            placed = self._patiently(
                lambda until: (
                    self._moved_with(saga_id, facts, until)
                    or self._log.append_fact(saga_id, late, UNENDED)
                    or self.add_late(saga_id, late)
                    or self._knows(saga_id, late)
                )
            ) or self._revived(saga_id, late)
        finally:
            if not placed:
                emit("saga.late_outcome_unplaced", saga_id=saga_id, step=late.step, late=late)

    def _moved_with(self, saga_id: UUID, facts: FactsOf, until: float) -> bool:
        """Whether the facts were added; a saga that was set aside gets them by another way."""
        try:
            moved = self._move(saga_id, facts, waits_until=until, moves_resolved=False)
        except HistoryError:
            return False
        return moved is not None

    def _knows(self, saga_id: UUID, late: LateOutcomeRecorded) -> bool:
        return any(_is_about(each.entry, late) for each in self._log.entries(saga_id))

    def _revived(self, saga_id: UUID, late: LateOutcomeRecorded) -> bool:
        revived = self._tombstones.revive(saga_id, late)
        if revived is not None:
            announce(revived.saga, revived.entries)
        return revived is not None

    def _patiently(self, write: Callable[[float], bool]) -> bool:
        until = time.monotonic() + RECORD_GRACE_SECONDS
        while True:
            try:
                return write(until)
            except (LogUnavailableError, Moved) as error:
                if time.monotonic() > until:
                    raise LogUnavailableError(str(error)) from error
                time.sleep(RECORD_PAUSE_SECONDS)

    def _known(self, snapshot: Snapshot) -> SagaDefinition[Any]:
        definition = self._definitions.by_hash(snapshot.saga.definition_hash)
        assert definition is not None, "foreign sagas are left alone before facts are asked for"
        return definition

    def _move(
        self,
        saga_id: UUID,
        facts_of: FactsOf,
        *,
        will_ring: bool = True,
        waits_until: float = 0.0,
        moves_resolved: bool = True,
    ) -> State | None:
        """As `_moved`; whatever is raised because of this one saga sets it aside.

        Raises:
            HistoryError: nothing can be done with it: it was set aside, or a newer version wrote
                its log, and it is left to that.
        """
        try:
            return self._moved(
                saga_id,
                facts_of,
                will_ring=will_ring,
                waits_until=waits_until,
                moves_resolved=moves_resolved,
            )
        except Exception as error:
            if isinstance(error, NewerLogError):
                self._tell_of_newer(saga_id, error)
                raise
            if not is_its_own(error):
                raise
            raise self._troubles.set_aside(saga_id, error) from error

    def _tell_of_newer(self, saga_id: UUID, error: NewerLogError) -> None:
        if saga_id not in self._newer:
            self._newer.add(saga_id)
            emit("saga.unreadable", saga_id=saga_id, error=str(error))

    def _moved(
        self,
        saga_id: UUID,
        facts_of: FactsOf,
        *,
        will_ring: bool,
        waits_until: float,
        moves_resolved: bool,
    ) -> State | None:
        """Read, add facts, decide, write by compare-and-set, ring; again while others are faster.

        A saga whose row is locked is left to a later sweep, unless the facts may not be lost: then
        it is tried until `waits_until`, and after that told of.
        """
        tries = 0
        while tries < MOVE_TRIES or time.monotonic() < waits_until:
            tries += 1
            snapshot = self._log.read_on(saga_id)
            if snapshot is None:
                return None
            definition = self._definitions.by_hash(snapshot.saga.definition_hash)
            if definition is None or not (moves_resolved or _may_move(snapshot.saga)):
                return None
            state = self._folded(snapshot)
            if not self._is_ours(snapshot, state, is_told=waits_until > 0):
                return None
            facts = facts_of(snapshot, state)
            if facts is None:
                return snapshot.saga.state
            change, decision = reconciled(definition, snapshot, state, facts, will_ring=will_ring)
            try:
                moved = self._write(change)
            except Locked:
                if time.monotonic() < waits_until:
                    continue
                break
            if moved:
                self._tell(snapshot.saga, change, definition)
                if not self._became_first(saga_id, decision.state):
                    return decision.visible
        if waits_until:
            raise LogUnavailableError(f"others hold the row of saga {saga_id}: try it again")
        return None

    def _folded(self, snapshot: Snapshot) -> FoldedSaga:
        """The saga as it was read; what was long to read is kept as a checkpoint."""
        is_due = checkpoints.is_due(snapshot.entries)
        try:
            state = folded(snapshot)
        except HistoryError:
            if snapshot.base is None:
                raise
            state, is_due = folded(self._from_its_start(snapshot)), True
        if is_due:
            self._log.keep_checkpoint(snapshot.saga.id, state)
        return state

    def _from_its_start(self, snapshot: Snapshot) -> Snapshot:
        """The same with all entries, for its checkpoint did not fit those that follow it."""
        assert snapshot.base is not None, "it was read from a checkpoint on"
        until = snapshot.entries[-1].seq if snapshot.entries else snapshot.base.seq
        entries = [each for each in self._log.entries(snapshot.saga.id) if each.seq <= until]
        return replace(snapshot, base=None, entries=entries)

    def _is_ours(self, snapshot: Snapshot, state: FoldedSaga, *, is_told: bool) -> bool:
        """Whether what is decided of a saga may be acted on here; of a closed one nothing is.

        Raises:
            InstallationError: no, and somebody tells of a fact.
        """
        if snapshot.saga.state is State.RESOLVED or self._installation.owns(state):
            return True
        if is_told:
            raise InstallationError(
                f"saga {snapshot.saga.id} was copied from installation {state.installation}, which "
                "goes on with it: tell that one"
            )
        return False

    def _became_first(self, saga_id: UUID, state: FoldedSaga) -> bool:
        """Whether a saga that was just put off may have its lock after all.

        Who had it woke the first in line; a look that began before has put that off again.
        """
        if state.lock is None or state.lock_granted or state.phase is not State.RUNNING:
            return False
        return self._log.next_in_line(state.lock) == saga_id

    def _tell(self, saga: SagaRow, change: Advance, definition: SagaDefinition[Any] | None) -> None:
        """After the commit: observers, workers, and who waits for the saga."""
        announce(saga, change.entries)
        if definition is not None:
            ring_each(self._doorbell, rings(definition, saga.id, change.schedule))
        if change.tells:
            self.pass_on(saga)

    def _write(self, change: Advance) -> bool:
        try:
            return self._log.advance(change)
        except Locked:
            raise
        except Moved:
            return False


def _may_move(saga: SagaRow) -> bool:
    return saga.state is not State.RESOLVED


def _is_held(snapshot: Snapshot, attempt: OpenAttempt) -> bool:
    return any(each.id == attempt.id and each.token == attempt.token for each in snapshot.attempts)


def _is_open(state: FoldedSaga, attempt: OpenAttempt) -> bool:
    track = state.step(attempt.id.step).track(attempt.id.direction)
    return track.open_attempt == attempt.id.number


def _is_expired(snapshot: Snapshot, attempt: OpenAttempt) -> bool:
    return any(each.id == attempt.id and each.is_expired for each in snapshot.attempts)


def _is_about(entry: Entry, late: LateOutcomeRecorded) -> bool:
    """Whether `entry` is the late outcome of the same attempt; there is one of each at most."""
    return isinstance(entry, LateOutcomeRecorded) and (
        (entry.step, entry.direction, entry.attempt) == (late.step, late.direction, late.attempt)
    )


def _lost(definition: SagaDefinition[Any], snapshot: Snapshot, state: FoldedSaga) -> list[Entry]:
    """Open attempts without a row: the database was restored or failed over; nobody will answer."""
    rows = {(each.id.step, each.id.direction, each.id.number) for each in snapshot.attempts}
    lost: list[Entry] = []
    for name, step in state.steps.items():
        for direction, track in step.tracks:
            number = track.open_attempt
            if number is not None and (name, direction.value, number) not in rows:
                step_definition = definition.step(name)
                lost.append(
                    outcomes.given_up(step_definition, direction, number, UnknownReason.LOST)
                )
    return lost
