"""How much of a request is read: headers of 16 kB, a body of 256 kB that arrives in time."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from steps.webhooks.inbox import MAX_BODY_BYTES
from workers.http.problems import (
    BODY_REFUSED,
    HEADERS_TOO_LARGE,
    MEDIA_TYPE_REFUSED,
    TOO_LARGE,
    TOO_SLOW,
    Refused,
    respond,
)

MAX_HEADER_BYTES: Final = 16 * 1024
"""Of all headers together, and the path."""

ARRIVAL_SECONDS: Final = 15.0
"""A body that takes longer holds a connection for nothing."""


class HeaderLimit:
    """Refuses too large headers; by itself uvicorn bounds only those that come in pieces."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and _header_bytes(scope) > MAX_HEADER_BYTES:
            refusal = respond(Request(scope), Refused(HEADERS_TOO_LARGE))
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _header_bytes(scope: Scope) -> int:
    line = len(scope["raw_path"]) + len(scope["query_string"])
    return line + sum(len(name) + len(value) for name, value in scope["headers"])


async def bounded_body(request: Request) -> bytes:
    """Return the body of a request.

    Raises:
        Refused: larger than 256 kB, as it says itself or as it proves; or too slow.
    """
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > MAX_BODY_BYTES:
        raise _too_large()
    try:
        async with asyncio.timeout(ARRIVAL_SECONDS):
            return await _read(request)
    except TimeoutError:
        raise Refused(TOO_SLOW) from None
    except ClientDisconnect:
        raise Refused(BODY_REFUSED, "the connection ended before the body did") from None


async def json_body(request: Request) -> bytes:
    """Return the body of a request that says that it is JSON.

    Raises:
        Refused: it says something else; or as `bounded_body`.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" or "content-encoding" in request.headers:
        raise Refused(MEDIA_TYPE_REFUSED)
    return await bounded_body(request)


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
    return bytes(body)


def _too_large() -> Refused:
    return Refused(TOO_LARGE, f"a body has at most {MAX_BODY_BYTES:,} bytes")
