"""How a service starts sagas and looks at them.

A start is durable when it returns, with or without a broker: the saga is a row, and the sweep finds
rows. With a broker it merely begins sooner.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from orchestrator.context import Effect, Movement
from orchestrator.definition import SagaDefinition
from orchestrator.definitions import Definitions
from orchestrator.doorbell import Doorbell, SilentDoorbell
from orchestrator.entries import Json
from orchestrator.errors import SagaNotFoundError, WaitTimeoutError
from orchestrator.folding import replay
from orchestrator.installation import Installation
from orchestrator.mover import Mover
from orchestrator.new_sagas import Origin, Payload
from orchestrator.outside_facts import Cancellation, OutsideFacts
from orchestrator.starting import NotStarted, Started, Starting
from orchestrator.state import State
from orchestrator.storage.callers_transaction import Transaction
from orchestrator.storage.database import Database
from orchestrator.storage.reads import Reads, SagaSummary
from orchestrator.storage.saga_log import SagaLog
from orchestrator.storage.set_aside import SetAside
from orchestrator.storage.signals import Signals
from orchestrator.storage.tombstones import Tombstones
from orchestrator.troubles import Troubles

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["NotStarted", "SagaClient", "Started"]


class SagaClient:
    """Starts sagas, finds them, waits for them and asks for them to be taken back.

    Args:
        engine: a SQLAlchemy engine on the database that holds the saga log. Nothing is opened
            before the first call.
        doorbell: wakes workers at once; a silent one leaves that to the sweep, within seconds.
        definitions: needed only to start sagas by name instead of by definition.
        on_close: what `close` does, for what was built for this client alone.
    """

    def __init__(
        self,
        engine: Engine,
        doorbell: Doorbell | None = None,
        *,
        definitions: Definitions | None = None,
        on_close: Callable[[], object] = lambda: None,
    ) -> None:
        database = Database(engine)
        doorbell = doorbell or SilentDoorbell()
        definitions = definitions or Definitions()
        signals = Signals(database)
        self._log = SagaLog(database)
        self._reads = Reads(database)
        mover = Mover(
            self._log,
            signals,
            Tombstones(database),
            definitions,
            doorbell,
            Troubles(SetAside(database)),
            Installation(database),
        )
        self._outside = OutsideFacts(self._log, self._reads, signals, mover)
        self._starting = Starting(self._log, definitions, doorbell, self._outside.look)
        self._on_close = on_close

    def close(self) -> None:
        """Close the connections to the database, where the client came with them.

        So it is after `workers.connect`. An engine that the caller gave stays the caller's. A
        closed client can be used again; it opens new connections.
        """
        self._on_close()

    # -- starting ----------------------------------------------------------------------------------

    def start(
        self,
        definition: SagaDefinition[Any] | str,
        payload: Payload,
        *,
        key: str,
        session: Transaction | None = None,
        trace: Mapping[str, str] | None = None,
        origin: Origin | None = None,
    ) -> Started:
        """Start a saga, or return the one that this key already started with this payload.

        Without `session` the saga is committed when this returns. With it, the saga belongs to the
        caller's transaction: it exists if and when that commits, and its bell rings after the
        commit (a bare `Connection` has no such moment; then the sweep rings). In an `AsyncSession`
        use ``await session.run_sync(lambda s: client.start(..., session=s))``.

        Args:
            key: the business's own name for this run (the order id), 1 to 200 characters.
            trace: trace context (``traceparent``), kept with the saga for whoever traces it.
            origin: the saga that waits for this one, or that this one repeats.

        Raises:
            PayloadError, InvalidKeyError, UnknownDefinitionError: nothing was written.
            IdempotencyConflictError: the key holds a saga with another payload.
            SagaLockedError: another saga is at work on what this one locks, and it may not queue.
            ConcurrentStartError: the caller's isolation level hides who holds the key; the
                caller's transaction goes on.
            LogUnavailableError: Postgres did not answer. Repeat the start: it is idempotent.
        """
        return self._starting.one(
            definition, payload, key=key, session=session, trace=trace, origin=origin
        )

    def start_many(
        self,
        definition: SagaDefinition[Any] | str,
        payloads: Iterable[tuple[str, Payload]],
    ) -> Iterable[Started | NotStarted]:
        """Start many sagas, (key, payload) each, in batches of 500 committed together.

        Yields one answer per row, in order. A refused row (bad payload, key conflict) does not stop
        the others. Safe to repeat from the beginning after a crash.
        """
        return self._starting.many(definition, payloads)

    # -- looking -----------------------------------------------------------------------------------

    def get(self, saga_id: UUID) -> SagaSummary:
        """Return the saga as it stands.

        Raises:
            SagaNotFoundError: there is none of that id (or it was pruned).
        """
        found = self._reads.get(saga_id)
        if found is None:
            raise SagaNotFoundError(f"no saga {saga_id}", saga_id=saga_id)
        return found

    def find(
        self,
        *,
        definition: str | None = None,
        key: str | None = None,
        states: Sequence[State] | None = None,
        attributes: Mapping[str, Json] | None = None,
        before: SagaSummary | None = None,
        limit: int = 100,
    ) -> list[SagaSummary]:
        """Return the newest matching sagas; see `orchestrator.storage.reads.Reads.find`."""
        return self._reads.find(
            definition=definition,
            key=key,
            states=states,
            attributes=attributes,
            before=before,
            limit=limit,
        )

    def child_of(self, parent_id: UUID, step: str) -> SagaSummary | None:
        """Return the saga that this step of the parent started last, or None."""
        return self._reads.child_of(parent_id, step)

    def results(self, saga_id: UUID) -> dict[str, Json]:
        """Return what the steps of a saga returned so far, by step.

        Raises:
            SagaNotFoundError: there is none of that id.
        """
        snapshot = self._log.read(saga_id)
        if snapshot is None:
            raise SagaNotFoundError(f"no saga {saga_id}", saga_id=saga_id)
        steps = replay(snapshot.entries).steps
        return {name: known.effect.result for name, known in steps.items() if known.effect}

    def wait(self, saga_id: UUID, timeout: timedelta | float = 30.0) -> SagaSummary:
        """Wait until the saga ended or is parked, and return it.

        Args:
            timeout: how long to wait, in seconds if a number.

        Raises:
            SagaNotFoundError: there is none of that id.
            WaitTimeoutError: it is still under way; the message says in which state.
        """
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        until = time.monotonic() + seconds
        pause = 0.02
        while True:
            found = self.get(saga_id)
            if found.is_terminal or found.is_parked:
                return found
            left = until - time.monotonic()
            if left <= 0:
                raise WaitTimeoutError(
                    f"saga {saga_id} is still {found.state} at {found.step} after {seconds:g} s"
                )
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, 0.5)

    # -- telling ----------------------------------------------------------------------------------

    def cancel(self, saga_id: UUID, *, reason: str, actor: str = "client") -> Cancellation:
        """Ask for the saga to be taken back; what runs finishes first.

        The request is a fact of the log when this returns. The answer says what came of it so far:
        ``accepted`` (it is being taken back), ``pending`` (a running step, or the pivot, has to be
        answered first) or ``refused`` (the pivot is behind). A saga for which it was made before
        gives today's answer. To end a saga *without* taking anything back, see `abandon`.

        Raises:
            PayloadError: no reason, or more than 500 characters of reason or actor.
            SagaNotFoundError: there is none of that id.
            StateConflictError: the saga has ended or is parked.
        """
        return self._outside.cancel(self.get(saga_id), reason=reason, actor=actor)

    def abandon(self, saga_id: UUID, *, reason: str, actor: str) -> SagaSummary:
        """Close a saga as it stands: nothing is taken back, and it never moves again by itself.

        Raises:
            PayloadError: no reason or actor, or more than 500 characters of either.
            SagaNotFoundError: there is none of that id.
            StateConflictError: it has ended, an attempt of it runs now, or its log leaves money
                open, or a step of which nobody knows: then ``amends abandon``, which a second
                person confirms.
        """
        self._outside.abandon(self.get(saga_id), reason=reason, actor=actor)
        return self.get(saga_id)

    def request_undo(self, saga_id: UUID, *, reason: str, actor: str = "parent") -> bool:
        """Have a saga taken back even after it completed; for the saga that waits for it.

        Returns:
            False when it is past its pivot; else it is being taken back, or will be.

        Raises:
            SagaNotFoundError: there is none of that id.
            UnknownDefinitionError: it has ended, and this process has not its definition.
        """
        return self._outside.request_undo(self.get(saga_id), reason=reason, actor=actor)

    def signal(
        self, saga: UUID | tuple[str, str], name: str, payload: Json = None, *, dedup_id: str
    ) -> bool:
        """Tell a saga of an outside fact; it wakes the step that waits for that name.

        Kept until the saga has it, also when it does not wait yet or does not even exist. Signals
        of one name are heard in order, one per wait.

        Args:
            saga: its id, or its definition's name and its key.
            dedup_id: the sender's own name for the fact; a second one of it changes nothing.

        Returns:
            Whether it was new.

        Raises:
            PayloadError: name, dedup_id or payload cannot be accepted.
            SagaNotFoundError: there is no saga of that id.
        """
        if isinstance(saga, tuple):
            return self._outside.signal(*saga, name, payload, dedup_id)
        found = self.get(saga)
        return self._outside.signal(found.definition, found.key, name, payload, dedup_id)

    def report_effect(
        self, saga_id: UUID, step: str, effect: Effect, *, by: str, key: str | None = None
    ) -> SagaSummary:
        """Tell a saga that a step's effect was proved outside (a webhook, a reconciliation).

        It counts as the step's if nobody was told of one, else it is taken back, even after the
        end, unless an effect of the same reference is known.

        Args:
            key: the idempotency key that it bears at the other side, if that says so. It tells
                which of several tries, settled one after the other, this is.

        Raises:
            PayloadError: the effect has no reference, or cannot be stored.
            SagaNotFoundError: there is none of that id.
            StateConflictError: the step never ran.
        """
        self._outside.report_effect(self.get(saga_id), step, effect, by=by, key=key)
        return self.get(saga_id)

    def report_settled(self, saga_id: UUID, step: str, reference: str, *, by: str) -> SagaSummary:
        """Tell a saga that a movement which was pending (an accepted refund) is final now.

        Raises:
            SagaNotFoundError: there is none of that id.
        """
        self._outside.report_settled(self.get(saga_id), step, reference, by=by)
        return self.get(saga_id)

    def report_undo_failed(
        self,
        saga_id: UUID,
        step: str,
        reference: str,
        *,
        by: str,
        movements: Sequence[Movement] = (),
    ) -> SagaSummary:
        """Tell a saga that an undo which had been accepted came to nothing: a refund that failed.

        Args:
            reference: the undo's own at the other side, or that of the effect it had undone.

        Raises:
            SagaNotFoundError: there is none of that id.
            StateConflictError: no undo of the step bears that reference.
        """
        self._outside.report_undo_failed(
            self.get(saga_id), step, reference, by=by, movements=movements
        )
        return self.get(saga_id)
