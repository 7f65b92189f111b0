"""What the routes work with, built once for a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request

from orchestrator.client import SagaClient
from orchestrator.definitions import Definitions
from orchestrator.doorbell import Doorbell
from orchestrator.storage.database import Database
from orchestrator.storage.reads import Reads
from orchestrator.storage.saga_log import SagaLog
from steps.webhooks.inbox import WebhookInbox
from workers import bootstrap
from workers.http.processing import Processing
from workers.http.starting import Starting
from workers.http.tokens import KnownToken, known_tokens
from workers.settings import Settings

THREADS: Final = 16
"""Requests that are at work at once: each holds a thread, and one connection or two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """The parts of one server; see `Edge.of`."""

    engine: Any
    doorbell: Doorbell | None
    definitions: Definitions
    tokens: Sequence[KnownToken]
    client: SagaClient
    starting: Starting
    reads: Reads
    log: SagaLog
    inbox: WebhookInbox
    processing: Processing

    @classmethod
    def of(cls, settings: Settings) -> Edge:
        """Build the parts; nothing is opened before the first request.

        Raises:
            SettingsError: no database is set, AMENDS_SAGAS names a module that is not there, or
                the gateway lacks its key or its client.
        """
        engine = bootstrap.build_engine(settings, pool_size=THREADS, name="amends http")
        database = Database(engine)
        definitions = bootstrap.definitions(settings)
        doorbell = bootstrap.build_doorbell(settings)
        client = SagaClient(engine, doorbell, definitions=definitions)
        tokens = known_tokens(settings.http_tokens)
        inbox = bootstrap.webhook_inbox(settings, database=database, client=client)
        return cls(
            engine=engine,
            doorbell=None if settings.broker_url is None else doorbell,
            definitions=definitions,
            tokens=tokens,
            client=client,
            starting=Starting(engine, client, definitions, {each.actor for each in tokens}),
            reads=Reads(database),
            log=SagaLog(database),
            inbox=inbox,
            processing=Processing(inbox.process_due),
        )


def edge_of(request: Request) -> Edge:
    """Return the parts of the server that this request came to."""
    edge = request.app.state.edge
    assert isinstance(edge, Edge)
    return edge
