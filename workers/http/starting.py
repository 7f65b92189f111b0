"""Starts a saga for a request: once for each Idempotency-Key, and once for each key of a saga.

Two keys, two promises. The saga's key is the business's name for the work: one saga for each
definition and key, for ever, whoever asks and however often. The Idempotency-Key is the caller's
name for one request: with it the same answer comes again, and another body is refused.

The record of the answer and the saga are written in one transaction. So there is no moment at
which a crash could leave the one without the other: a repeated request finds both, or begins anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from orchestrator.client import SagaClient
from orchestrator.definition import SagaDefinition
from orchestrator.definitions import Definitions
from orchestrator.entries import Json
from orchestrator.errors import UnknownDefinitionError
from orchestrator.idempotency import idempotent
from orchestrator.storage.callers_transaction import Transaction
from orchestrator.storage.idempotency import PostgresIdempotencyStore
from workers.http.storage.transaction import transaction

REMEMBERED_SECONDS: Final = 86_400.0
"""How long the same answer comes again; later the saga's key alone recognises a repetition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request asks for. `version` None: the latest."""

    definition: str
    version: int | None
    key: str
    payload: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The saga that holds the key; `created` as the request was answered first."""

    saga_id: UUID
    created: bool


class Starting:
    """Starts sagas for callers who name themselves and their requests.

    Args:
        actors: all who may ask; the same Idempotency-Key of two of them is two keys.
    """

    def __init__(
        self, engine: Any, client: SagaClient, definitions: Definitions, actors: Iterable[str]
    ) -> None:
        self._engine = engine
        self._client = client
        self._definitions = definitions
        store = PostgresIdempotencyStore(engine)
        self._once = {
            actor: idempotent(
                store,
                scope=f"http.sagas.{actor}",
                payload_arg="asked",
                transaction_arg="session",
                wait_seconds=0,
                ttl_seconds=REMEMBERED_SECONDS,
            )(self._start)
            for actor in actors
        }

    def start(self, asked: Asked, *, actor: str, idempotency_key: str) -> Answered:
        """Start the saga, or say what the request was answered before.

        Raises:
            IdempotencyConflictError: the Idempotency-Key (no `saga_id` in it), or the saga's key,
                came with something else before.
            IdempotencyInFlightError: a request with this Idempotency-Key is being answered.
            AmendsError: as `SagaClient.start`; nothing was written, and it may be repeated.
        """
        with transaction(self._engine) as session:
            answer = self._once[actor](
                asked=asked, idempotency_key=idempotency_key, session=session
            )
        return Answered(saga_id=UUID(answer["saga_id"]), created=answer["created"])

    def _start(self, asked: Asked, idempotency_key: str, session: Transaction) -> dict[str, Json]:
        del idempotency_key  # it has done its work
        started = self._client.start(
            self._definition(asked), asked.payload, key=asked.key, session=session
        )
        return {"saga_id": str(started.id), "created": started.created}

    def _definition(self, asked: Asked) -> SagaDefinition[Any]:
        if asked.version is None:
            return self._definitions.latest(asked.definition)
        found = self._definitions.version(asked.definition, asked.version)
        if found is None:
            raise UnknownDefinitionError("no saga of that name and version")
        return found
