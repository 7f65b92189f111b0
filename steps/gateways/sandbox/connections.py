"""Closing a client's connection without an answer, which ASGI by itself cannot do."""

from __future__ import annotations

import asyncio

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol


class Connections:
    """The open connections of one server by the client's address."""

    def __init__(self) -> None:
        self._transports: dict[tuple[str, int], asyncio.Transport] = {}

    def protocol(self) -> type[H11Protocol]:
        """A protocol class for uvicorn that keeps this register."""
        transports = self._transports

        class RegisteringProtocol(H11Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                super().connection_made(transport)
                if self.client is not None:
                    transports[self.client] = transport

            def connection_lost(self, exc: Exception | None) -> None:
                if self.client is not None:
                    transports.pop(self.client, None)
                super().connection_lost(exc)

        return RegisteringProtocol

    def abort(self, client: tuple[str, int]) -> None:
        """Close at once. No byte of an answer leaves."""
        transport = self._transports.get(client)
        if transport is not None:
            transport.abort()


class NoAnswer(Response):
    """In place of a response: the connection breaks."""

    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self._connections = connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        self._connections.abort(tuple(scope["client"]))
        while (await receive())["type"] != "http.disconnect":
            pass
