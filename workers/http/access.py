"""Every request has an id and, once it is answered, one line in the log."""

from __future__ import annotations

import re
import time
import uuid
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from orchestrator.instrumentation import emit
from orchestrator.redaction import without_card_data

HEADER: Final = "X-Request-Id"
PROBES: Final = frozenset({"/healthz", "/readyz"})
"""Asked every few seconds by whoever runs us; they are told of only when they fail."""

_FIT: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_FAILURE: Final = 400


class AccessLog:
    """Gives each request an id, the caller's own where that is fit to print, and tells of its end.

    The path is told as its route: what was typed into it may be anything. It stands around the
    whole application, where a fault of ours has become an answer. The server logs the traceback
    behind us, in the same task and so under the same id.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        bind_contextvars(request_id=request_id)
        try:
            await self._app(scope, receive, tell)
        finally:
            _tell(scope, status, time.monotonic() - began)


def _tell(scope: Scope, status: int, seconds: float) -> None:
    path = getattr(scope.get("route"), "path", None)
    if path in PROBES and status < _FAILURE:
        return
    emit(
        "http.answered",
        method=scope["method"],
        route=path or "none",
        status=status,
        seconds=round(seconds, 4),
        actor=scope["state"].get("actor"),
    )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _FIT.fullmatch(value):
            given: str = value.decode()
            if not without_card_data(given)[1]:
                return given
    return uuid.uuid4().hex
