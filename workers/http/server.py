"""``amends serve``: the HTTP edge in a process of its own, until SIGTERM."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable
from typing import Final

import uvicorn

from workers import telemetry
from workers.http.access import AccessLog
from workers.http.app import build_app
from workers.http.limits import MAX_HEADER_BYTES
from workers.settings import Settings

KEEP_ALIVE_SECONDS: Final = 75
"""Longer than a proxy keeps a connection, so that none of its requests meets a closing socket."""

BACKLOG: Final = 512


def serve(settings: Settings, *, host: str, port: int, tell: Callable[[str], None]) -> None:
    """Listen and serve; port 0 takes a free one, and `tell` is told which.

    On SIGTERM no connection is accepted any more, requests that run are answered within
    AMENDS_GRACE_SECONDS, and the process exits with 0.

    Raises:
        SettingsError: a setting that it needs is missing or wrong.
        OSError: somebody else listens there.
    """
    app = AccessLog(build_app(settings))
    listener = _listen(host, port)
    telemetry.configure(settings)
    config = uvicorn.Config(
        app,
        http="h11",  # the one whose limit on headers is known
        ws="none",
        lifespan="on",
        log_config=None,  # our handlers, which redact
        access_log=False,  # ours is the event `http.answered`
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.grace_seconds)),
        server_header=False,
        proxy_headers=False,  # nothing here believes who a client says it is
    )
    # uvicorn raises the signal again once it has shut down; by default that would be a death.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    tell("listening on http://{}:{}".format(*_place(listener)))
    if not settings.http_tokens:
        tell("nobody may start sagas or look at them: no AMENDS_HTTP_TOKENS")
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    # asyncio sets TCP_NODELAY only where the protocol is named; without it every answer waits 40 ms
    # for the client's delayed acknowledgement, because uvicorn writes head and body apart.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _place(listener: socket.socket) -> tuple[str, int]:
    host, port = listener.getsockname()[:2]
    return (f"[{host}]" if ":" in host else host), port
