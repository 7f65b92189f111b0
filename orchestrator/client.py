"""How a service starts sagas and looks at them.

A start is durable when it returns, with or without a broker: the saga is a row, and the sweep finds
rows. With a broker it merely begins sooner.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import BaseModel

from orchestrator.definition import SagaDefinition
from orchestrator.definitions import Definitions
from orchestrator.doorbell import Doorbell, Ring, SilentDoorbell, ring_each
from orchestrator.entries import CancelRequested, Json, Recorded, SagaStarted
from orchestrator.errors import (
    AmendsError,
    ConcurrentStartError,
    IdempotencyConflictError,
    LogUnavailableError,
    PayloadError,
    SagaNotFoundError,
    StateConflictError,
    WaitTimeoutError,
)
from orchestrator.folding import apply
from orchestrator.instrumentation import emit
from orchestrator.payloads import (
    checked_key,
    checked_trace,
    fingerprint,
    read_back,
    to_json,
    validated,
)
from orchestrator.planning import first_look, scheduled
from orchestrator.state import SagaState, State
from orchestrator.state_machine import decide
from orchestrator.storage.callers_transaction import (
    CallersTransaction,
    HiddenHolderError,
    Transaction,
)
from orchestrator.storage.database import Database, Moved
from orchestrator.storage.reads import Reads, SagaSummary
from orchestrator.storage.rows import NewSaga
from orchestrator.storage.saga_log import SagaLog, new_id

if TYPE_CHECKING:
    from sqlalchemy import Engine

Payload = BaseModel | Mapping[str, Any]

BATCH = 500
MAX_REASON_LENGTH = 500
START_TRIES = 6
"""Two bulk starts of the same keys may lose to each other; more often than this is overload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The saga that holds the key; `created` is False when it existed before."""

    id: UUID
    key: str
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NotStarted:
    """A row of a bulk start that was refused, and why."""

    key: str
    error: AmendsError


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
        self._log = SagaLog(database)
        self._reads = Reads(database)
        self._doorbell = doorbell or SilentDoorbell()
        self._has_doorbell = not isinstance(self._doorbell, SilentDoorbell)
        self._definitions = definitions or Definitions()
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
    ) -> Started:
        """Start a saga, or return the one that this key already started with this payload.

        Without `session` the saga is committed when this returns. With it, the saga belongs to the
        caller's transaction: it exists if and when that commits, and its bell rings after the
        commit (a bare `Connection` has no such moment; then the sweep rings). In an `AsyncSession`
        use ``await session.run_sync(lambda s: client.start(..., session=s))``.

        Args:
            key: the business's own name for this run (the order id), 1 to 200 characters.
            trace: trace context (``traceparent``), kept with the saga for whoever traces it.

        Raises:
            PayloadError, InvalidKeyError, UnknownDefinitionError: nothing was written.
            IdempotencyConflictError: the key holds a saga with another payload.
            ConcurrentStartError: the caller's isolation level hides who holds the key; the
                caller's transaction goes on.
            LogUnavailableError: Postgres did not answer. Repeat the start: it is idempotent.
        """
        caller = None if session is None else CallersTransaction(session)
        will_ring = self._has_doorbell and (caller is None or caller.tells_commit)
        saga = self._new_saga(self._named(definition), payload, key, trace, will_ring=will_ring)
        if caller is None:
            created = self._commit([saga])
            self._ring([saga] if created else [])
        else:
            created = self._start_inside(saga, caller)
        if saga.id in created:
            if caller is None:
                _tell_started(saga)
            return Started(id=saga.id, key=key, created=True)
        return self._existing(saga, caller)

    def start_many(
        self,
        definition: SagaDefinition[Any] | str,
        payloads: Iterable[tuple[str, Payload]],
    ) -> Iterable[Started | NotStarted]:
        """Start many sagas, (key, payload) each, in batches of 500 committed together.

        Yields one answer per row, in order. A refused row (bad payload, key conflict) does not stop
        the others. Safe to repeat from the beginning after a crash.
        """
        known = self._named(definition)
        rows = iter(payloads)
        while batch := list(islice(rows, BATCH)):
            yield from self._start_batch(known, batch)

    def _start_batch(
        self, definition: SagaDefinition[Any], batch: Sequence[tuple[str, Payload]]
    ) -> list[Started | NotStarted]:
        prepared: list[NewSaga | NotStarted] = []
        for key, payload in batch:
            try:
                saga = self._new_saga(definition, payload, key, will_ring=self._has_doorbell)
                prepared.append(saga)
            except AmendsError as error:
                prepared.append(NotStarted(key=str(key), error=error))
        sagas = [each for each in prepared if isinstance(each, NewSaga)]
        first: dict[str, NewSaga] = {}
        for each in sagas:
            first.setdefault(each.key, each)
        created = self._commit(list(first.values())) if sagas else set[UUID]()
        fresh = [each for each in sagas if each.id in created]
        self._ring(fresh)
        for each in fresh:
            _tell_started(each)
        others = [each.key for each in sagas if each.id not in created]
        holders = self._log.holders(definition.name, others) if others else {}
        return [
            each if isinstance(each, NotStarted) else _answer(each, created, holders)
            for each in prepared
        ]

    def _named(self, definition: SagaDefinition[Any] | str) -> SagaDefinition[Any]:
        if isinstance(definition, str):
            return self._definitions.latest(definition)
        return definition

    def _new_saga(
        self,
        definition: SagaDefinition[Any],
        payload: Payload,
        key: str,
        trace: Mapping[str, str] | None = None,
        *,
        will_ring: bool,
    ) -> NewSaga:
        whole = validated(definition, payload)
        model = read_back(definition, whole)
        saga_id = new_id()
        deadline = None if definition.deadline is None else definition.deadline.total_seconds()
        started = SagaStarted(
            payload=whole,
            skipped=[each.name for each in definition.steps if each.when and not each.when(model)],
            deadline_seconds=deadline,
            trace=None if trace is None else checked_trace(trace),
        )
        moment = datetime.now(UTC)  # any moment serves: first steps are due at once
        state = apply(SagaState(), Recorded(seq=1, at=moment, entry=started))
        decision = decide(definition, state, moment, str(saga_id))
        return NewSaga(
            id=saga_id,
            definition=definition.name,
            version=definition.version,
            definition_hash=definition.hash,
            key=checked_key(key),
            fingerprint=fingerprint(payload),
            attributes={name: whole[name] for name in definition.attributes if name in whole},
            started=started,
            deadline_seconds=deadline,
            due_in_seconds=_due_in(saga_id, deadline) if decision.runs else 0.0,
            trace=trace,
            state=State.RUNNING,
            attempts=[
                scheduled(definition, run, moment, will_ring=will_ring) for run in decision.runs
            ],
        )

    def _commit(self, sagas: Sequence[NewSaga]) -> set[UUID]:
        for _ in range(START_TRIES):
            try:
                return self._log.start(sagas)
            except Moved:
                continue
        raise LogUnavailableError("Postgres is too busy to start sagas; repeat the start")

    def _start_inside(self, saga: NewSaga, caller: CallersTransaction) -> set[UUID]:
        try:
            created = caller.start(self._log, saga)
        except HiddenHolderError as error:
            raise ConcurrentStartError(
                f"key {saga.key!r} was started by a transaction this one cannot see; "
                "repeat the start in a new transaction"
            ) from error
        if created:
            caller.after_commit([lambda: _tell_started(saga), lambda: self._ring([saga])])
        return created

    def _existing(self, saga: NewSaga, caller: CallersTransaction | None) -> Started:
        connection = None if caller is None else caller.connection
        holders = self._log.holders(saga.definition, [saga.key], connection)
        if saga.key not in holders:
            raise ConcurrentStartError(
                f"key {saga.key!r} is held by a transaction this one cannot see; repeat the start"
            )
        answer = _answer(saga, set(), holders)
        if isinstance(answer, NotStarted):
            raise answer.error
        return answer

    def _rings(self, sagas: Iterable[NewSaga]) -> list[Ring]:
        return [
            Ring(
                definition=saga.definition,
                saga_id=saga.id,
                step=each.step,
                direction=each.direction,
                attempt=each.number,
                queue=each.queue,
            )
            for saga in sagas
            for each in saga.attempts
            if each.rung
        ]

    def _ring(self, sagas: Iterable[NewSaga]) -> None:
        ring_each(self._doorbell, self._rings(sagas))

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

    def cancel(self, saga_id: UUID, *, reason: str, actor: str = "client") -> SagaSummary:
        """Ask for the saga to be taken back; what runs finishes first.

        The request is a fact of the log when this returns. Past the pivot it has no effect. A saga
        for which it was made before is returned as it stands.

        Raises:
            PayloadError: no reason, or more than 500 characters of reason or actor.
            SagaNotFoundError: there is none of that id.
            StateConflictError: the saga has ended or is parked.
        """
        if not reason.strip():
            raise PayloadError("cancel needs a reason")
        if max(len(reason), len(actor)) > MAX_REASON_LENGTH:
            raise PayloadError(f"reason and actor have at most {MAX_REASON_LENGTH} characters")
        movable = (State.RUNNING, State.WAITING)
        fact = CancelRequested(reason=to_json(reason), actor=to_json(actor))
        accepted = self._log.append_fact(saga_id, fact, movable, once=True)
        found = self.get(saga_id)
        if not accepted and self._log.has(saga_id, CancelRequested):
            return found
        if not accepted:
            raise StateConflictError(
                f"saga {saga_id} is {found.state}; only a running saga can be cancelled",
                saga_id=saga_id,
                state=found.state,
            )
        emit("saga.cancel_requested", saga_id=saga_id, reason=reason, actor=actor)
        return found


def _answer(
    saga: NewSaga, created: set[UUID], holders: Mapping[str, tuple[UUID, str, State]]
) -> Started | NotStarted:
    if saga.id in created:
        return Started(id=saga.id, key=saga.key, created=True)
    holder, known, _ = holders[saga.key]
    if known == saga.fingerprint:
        return Started(id=holder, key=saga.key, created=False)
    return NotStarted(
        key=saga.key,
        error=IdempotencyConflictError(
            f"key {saga.key!r} of {saga.definition!r} was used with another payload; "
            f"saga {holder} holds it",
            saga_id=holder,
        ),
    )


def _due_in(saga_id: UUID, deadline: float | None) -> float:
    look = first_look(saga_id)
    return look if deadline is None else min(deadline, look)


def _tell_started(saga: NewSaga) -> None:
    emit("saga.started", saga_id=saga.id, saga=saga.definition, key=saga.key)
