"""``amends worker``, ``serve`` and ``sandbox``: processes of a deployment, in the foreground."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from recovery.cli.failures import Failure
from recovery.cli.session import Session, pass_session
from recovery.isolation import child_environment
from workers.worker import worker_argv

DEFAULT_PORT = 8799
HTTP_PORT = 8080


@click.command(
    "worker", context_settings={"ignore_unknown_options": True, "allow_extra_args": False}
)
@click.option(
    "--pool",
    "-P",
    type=click.Choice(["threads", "prefork", "solo"]),
    help="How steps run at once; else AMENDS_POOL.",
)
@click.option(
    "--concurrency",
    "-c",
    type=click.IntRange(min=1),
    help="Steps at once; else AMENDS_CONCURRENCY.",
)
@click.option(
    "--queues", "-Q", metavar="NAMES", help="Separated by commas; else AMENDS_QUEUES, else all."
)
@click.option("--hostname", "-n", "name", help="Celery's node name, for several on one host.")
@click.argument("celery_options", nargs=-1, type=click.UNPROCESSED)
@pass_session
def worker_command(
    session: Session,
    pool: str | None,
    concurrency: int | None,
    queues: str | None,
    name: str | None,
    celery_options: tuple[str, ...],
) -> None:
    """Run a worker in the foreground.

    The same as ``celery -A workers worker``, whose further options may follow.
    """
    command = worker_argv(
        session.settings,
        pool=pool,
        concurrency=concurrency,
        queues=_names(queues),
        name=name,
        extra=celery_options,
    )
    given = {
        "AMENDS_DATABASE_URL": session.settings.require_database_url(),
        "AMENDS_BROKER_URL": session.settings.require_broker_url(),
    }
    if session.output.as_json:
        given["AMENDS_LOG_FORMAT"] = "json"
    os.execve(command[0], command, child_environment(os.environ | given))  # noqa: S606 - ours


@click.command("sandbox")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--ledger",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(".amends/sandbox-ledger.sqlite"),
    show_default=True,
    help="The gateway's books; made if missing.",
)
@click.option("--log/--no-log", default=False, help="A JSON line per request on stderr.")
@pass_session
def sandbox_command(session: Session, host: str, port: int, ledger: Path, log: bool) -> None:
    """Run the sandbox payment gateway and carrier.

    It keeps a ledger, follows a real gateway's rules, and has no authentication: keep it on the
    loopback address. Point workers at it with AMENDS_GATEWAY_URL.
    """
    try:
        from steps.gateways.sandbox.server import serve  # noqa: PLC0415 - an optional extra
    except ModuleNotFoundError as error:
        raise Failure(f'{error.name} is missing: pip install "amends[local]"') from error
    ledger.parent.mkdir(parents=True, exist_ok=True)
    session.output.note(f"ledger: {ledger}")
    serve(host=host, port=port, ledger_path=ledger, logs=log or session.output.as_json)


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=HTTP_PORT,
    show_default=True,
    help="0 takes a free one.",
)
@pass_session
def serve_command(session: Session, host: str, port: int) -> None:
    """Serve the HTTP edge: services start sagas, gateways deliver webhooks.

    Needs the extra `http`. It speaks plain HTTP: put whatever ends TLS in front of it.
    AMENDS_HTTP_TOKENS says who may start and see sagas, AMENDS_SANDBOX_WEBHOOK_SECRETS or
    AMENDS_STRIPE_WEBHOOK_SECRETS what the gateway signs with; without them nobody may, and no
    webhook is taken.
    """
    try:
        from workers.http.server import serve  # noqa: PLC0415 - an optional extra
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "starlette", "uvicorn"):
            raise
        raise Failure(f'{error.name} is missing: pip install "amends[http]"') from error
    serve(session.settings, host=host, port=port, tell=session.output.note)


def _names(text: str | None) -> Sequence[str]:
    return [each.strip() for each in (text or "").split(",") if each.strip()]
