"""Builds the sandbox gateway over one ledger file and serves it until told to stop."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from steps.gateways.sandbox.announcements import Announcements
from steps.gateways.sandbox.connections import Connections
from steps.gateways.sandbox.deliveries import Deliveries
from steps.gateways.sandbox.endpoints import EndpointRoutes
from steps.gateways.sandbox.faults import FaultScript
from steps.gateways.sandbox.gateway import Clock, Gateway
from steps.gateways.sandbox.journal import Journal
from steps.gateways.sandbox.ledger import Ledger
from steps.gateways.sandbox.notes import Notes
from steps.gateways.sandbox.pipeline import Pipeline
from steps.gateways.sandbox.routes import GatewayRoutes
from steps.gateways.sandbox.stage import StageRoutes
from steps.gateways.sandbox.stripe_face.form import StripeForm
from steps.gateways.sandbox.stripe_face.questions import StripeQuestions
from steps.gateways.sandbox.stripe_face.routes import StripeEffects, StripeFace
from steps.gateways.sandbox.webhooks import Webhooks
from steps.gateways.sandbox.wire import OwnForm

_KEEP_ALIVE_SECONDS = 75  # longer than any client keeps one, so no request meets a closing socket
_LARGEST_BACKLOG = 512


def serve(
    *,
    host: str = "127.0.0.1",
    port: int,
    ledger_path: Path,
    public_url: str | None = None,
    logs: bool = False,
    until_stdin_closes: bool = False,
) -> None:
    """Listen and serve; the first line printed says where.

    Port 0 takes a free one. `public_url` is where payers find their challenges, if not there.
    There is no authentication: listen beyond 127.0.0.1 only inside a network of your own.

    Returns on SIGTERM or SIGINT, and with `until_stdin_closes` as soon as standard input ends,
    which it does when the starter dies. Requests still held are then cut off.
    """
    listener = _listen(host, port)
    address = "{}:{}".format(*listener.getsockname())
    connections = Connections()
    ledger = Ledger(ledger_path)
    app = build_app(ledger, connections, base_url=public_url or f"http://{address}", logs=logs)
    config = uvicorn.Config(
        app,
        http=connections.protocol(),
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    sys.stdout.write(f"listening on {address}\n")
    sys.stdout.flush()
    try:
        asyncio.run(
            _run(
                uvicorn.Server(config),
                listener,
                app.state.webhooks,
                until_stdin_closes=until_stdin_closes,
            )
        )
    finally:
        ledger.close()


def build_app(ledger: Ledger, connections: Connections, *, base_url: str, logs: bool) -> Starlette:
    """The sandbox as an ASGI application; `base_url` is where payers find their challenges."""
    clock = Clock()
    journal = Journal(ledger)
    faults = FaultScript()
    notes = Notes(ledger)
    form = OwnForm(base_url, notes)
    stripe_form = StripeForm(base_url=base_url, notes=notes)
    gateway = Gateway(ledger, journal, notes, clock)
    pipeline = Pipeline(journal, faults, connections, logs=logs)
    stage = StageRoutes(
        ledger=ledger,
        journal=journal,
        gateway=gateway,
        faults=faults,
        pipeline=pipeline,
        clock=clock,
        form=form,
    )
    announcements = Announcements(ledger, form, stripe_form)
    deliveries = Deliveries(ledger)
    own = GatewayRoutes(gateway, journal, pipeline, form)
    face = StripeFace(gateway=gateway, journal=journal, pipeline=pipeline, form=stripe_form)
    effects, questions = StripeEffects(face), StripeQuestions(face, ledger, announcements)
    parts = own, effects, questions, stage, EndpointRoutes(deliveries, announcements)
    app = Starlette(routes=[route for part in parts for route in part.routes()])
    app.state.webhooks = Webhooks(ledger, deliveries, announcements, faults)
    return app


def _listen(host: str, port: int) -> socket.socket:
    # asyncio sets TCP_NODELAY only where the protocol is named; without it every answer waits 40 ms
    # for the client's delayed acknowledgement, because uvicorn writes head and body apart.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(_LARGEST_BACKLOG)
    return listener


async def _run(
    server: uvicorn.Server,
    listener: socket.socket,
    webhooks: Webhooks,
    *,
    until_stdin_closes: bool,
) -> None:
    if until_stdin_closes:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _stop_at_end_of_stdin, server)
    telling = asyncio.create_task(webhooks.run())
    telling.add_done_callback(lambda ended: _stop_if_it_failed(ended, server))
    await server.serve(sockets=[listener])
    telling.cancel()


def _stop_if_it_failed(telling: asyncio.Task[None], server: uvicorn.Server) -> None:
    """A sandbox that no longer tells anybody would be an outage that looks like silence."""
    if not telling.cancelled() and telling.exception() is not None:
        sys.stderr.write(f"webhooks ended: {telling.exception()!r}\n")
        server.should_exit = True


def _stop_at_end_of_stdin(server: uvicorn.Server) -> None:
    if not os.read(sys.stdin.fileno(), 1024):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        server.should_exit = True
        server.force_exit = True
