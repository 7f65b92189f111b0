"""Starting sagas: one by itself or in a caller's transaction, or many at once.

What is started is committed before its bell is rung, and a start that is repeated finds the saga
of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID

from orchestrator.definition import SagaDefinition
from orchestrator.definitions import Definitions
from orchestrator.doorbell import Doorbell, Ring, SilentDoorbell, ring_each
from orchestrator.errors import (
    AmendsError,
    ConcurrentStartError,
    IdempotencyConflictError,
    LogUnavailableError,
    ParentNotRunningError,
    SagaLockedError,
)
from orchestrator.instrumentation import emit
from orchestrator.new_sagas import Origin, Payload, new_saga
from orchestrator.state import State
from orchestrator.storage.callers_transaction import (
    CallersTransaction,
    HiddenHolderError,
    Transaction,
)
from orchestrator.storage.database import LockHeld, Moved
from orchestrator.storage.rows import NewSaga
from orchestrator.storage.saga_log import SagaLog

BATCH = 500
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


class Starting:
    """Starts sagas for a `SagaClient`, which says what is promised.

    Args:
        look: decides at once what follows for a saga.
    """

    def __init__(
        self,
        log: SagaLog,
        definitions: Definitions,
        doorbell: Doorbell,
        look: Callable[[UUID], None],
    ) -> None:
        self._log = log
        self._definitions = definitions
        self._doorbell = doorbell
        self._has_doorbell = not isinstance(doorbell, SilentDoorbell)
        self._look = look

    def one(
        self,
        definition: SagaDefinition[Any] | str,
        payload: Payload,
        *,
        key: str,
        session: Transaction | None = None,
        trace: Mapping[str, str] | None = None,
        origin: Origin | None = None,
    ) -> Started:
        """See `orchestrator.client.SagaClient.start`."""
        caller = None if session is None else CallersTransaction(session)
        will_ring = self._has_doorbell and (caller is None or caller.tells_commit)
        saga = new_saga(
            self._named(definition),
            payload,
            key,
            will_ring=will_ring,
            trace=trace,
            origin=origin or Origin(),
        )
        if caller is None:
            created = self._commit([saga])
            self._begin([saga] if created else [])
        else:
            created = self._start_inside(saga, caller)
        if saga.id in created:
            if caller is None:
                _tell_started(saga)
            return Started(id=saga.id, key=key, created=True)
        return self._existing(saga, caller)

    def many(
        self,
        definition: SagaDefinition[Any] | str,
        payloads: Iterable[tuple[str, Payload]],
    ) -> Iterable[Started | NotStarted]:
        """See `orchestrator.client.SagaClient.start_many`."""
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
                saga = new_saga(definition, payload, key, will_ring=self._has_doorbell)
                prepared.append(saga)
            except AmendsError as error:
                prepared.append(NotStarted(key=str(key), error=error))
        sagas = [each for each in prepared if isinstance(each, NewSaga)]
        first: dict[str, NewSaga] = {}
        for each in sagas:
            first.setdefault(each.key, each)
        created, locked_out = self._commit_batch(list(first.values()))
        fresh = [each for each in sagas if each.id in created]
        self._begin(fresh)
        for each in fresh:
            _tell_started(each)
        others = [each.key for each in sagas if each.id not in created]
        holders = self._log.holders(definition.name, others) if others else {}
        return [
            each
            if isinstance(each, NotStarted)
            else locked_out.get(each.id) or _answer(each, created, holders)
            for each in prepared
        ]

    def _commit_batch(self, sagas: Sequence[NewSaga]) -> tuple[set[UUID], dict[UUID, NotStarted]]:
        """Together where that is safe; one by one where a lock may refuse one of them."""
        together = [each for each in sagas if not each.lock_granted]
        created = self._commit(together) if together else set[UUID]()
        locked_out: dict[UUID, NotStarted] = {}
        for each in sagas:
            if not each.lock_granted:
                continue
            try:
                created |= self._commit([each])
            except SagaLockedError as error:
                locked_out[each.id] = NotStarted(key=each.key, error=error)
        return created, locked_out

    def _named(self, definition: SagaDefinition[Any] | str) -> SagaDefinition[Any]:
        if isinstance(definition, str):
            return self._definitions.latest(definition)
        return definition

    def _commit(self, sagas: Sequence[NewSaga]) -> set[UUID]:
        for _ in range(START_TRIES):
            try:
                return self._log.start(sagas)
            except Moved:
                continue
            except LockHeld as error:
                if self._log.holders(sagas[0].definition, [sagas[0].key]):
                    return set()  # its own earlier start holds the lock
                raise _locked(sagas[0]) from error
        raise LogUnavailableError("Postgres is too busy to start sagas; repeat the start")

    def _start_inside(self, saga: NewSaga, caller: CallersTransaction) -> set[UUID]:
        try:
            created = caller.start(self._log, saga)
        except LockHeld as error:
            if self._log.holders(saga.definition, [saga.key], caller.connection):
                return set()
            raise _locked(saga) from error
        except HiddenHolderError as error:
            raise ConcurrentStartError(
                f"key {saga.key!r} was started by a transaction this one cannot see; "
                "repeat the start in a new transaction"
            ) from error
        if created:
            caller.after_commit([lambda: _tell_started(saga), lambda: self._begin([saga])])
        return created

    def _existing(self, saga: NewSaga, caller: CallersTransaction | None) -> Started:
        connection = None if caller is None else caller.connection
        holders = self._log.holders(saga.definition, [saga.key], connection)
        if saga.key not in holders:
            if saga.parent_id is not None:
                raise ParentNotRunningError(
                    f"saga {saga.parent_id} does not go forward any more; its child of the step "
                    f"{saga.parent_step!r} was not started"
                )
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

    def _begin(self, sagas: Sequence[NewSaga]) -> None:
        """Ring for the first steps, and let what is in line for a lock look whether it is first."""
        ring_each(self._doorbell, self._rings(sagas))
        for each in sagas:
            if each.lock is not None and not each.lock_granted:
                self._look(each.id)


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


def _locked(saga: NewSaga) -> SagaLockedError:
    return SagaLockedError(
        f"another saga is at work on {saga.lock!r}; nothing was started. Start again once it ended."
    )


def _tell_started(saga: NewSaga) -> None:
    emit("saga.started", saga_id=saga.id, saga=saga.definition, key=saga.key)
