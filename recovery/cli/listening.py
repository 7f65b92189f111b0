"""``amends events``: what becomes of sagas, as JSON lines for programs in any language."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from dataclasses import asdict

import click

from orchestrator.storage.events import Position, SagaEvent
from orchestrator.subscription import BATCH, Subscription
from recovery.cli.output import to_json_line
from recovery.cli.session import Session, pass_session

PAUSE_SECONDS = 1.0
"""Between two looks of ``--follow`` when there was nothing."""


@click.command("events")
@click.argument("name")
@click.option("--follow", is_flag=True, help="Wait for more, until SIGTERM.")
@click.option("--limit", type=click.IntRange(min=1), help="About so many events.")
@click.option(
    "--no-acknowledge", is_flag=True, help="Only print: the next call prints the same again."
)
@click.option(
    "--acknowledge",
    "handled",
    metavar="POSITION",
    help="Print nothing; acknowledge everything up to the line with this `position`.",
)
@click.option("--lag", is_flag=True, help="Print how far NAME is behind.")
@click.option("--forget", is_flag=True, help="Forget NAME, so that pruning need not wait for it.")
@pass_session
def events_command(
    session: Session,
    name: str,
    follow: bool,
    limit: int | None,
    no_acknowledge: bool,
    handled: str | None,
    lag: bool,
    forget: bool,
) -> None:
    """Print what became of sagas since NAME last read.

    A JSON object per line, in order per saga, at least once: tell a repetition by its `id`. What
    was printed is acknowledged. A program that may die between reading a line and handling it
    prints with --no-acknowledge, and acknowledges when it is done.
    """
    if (handled is not None) + lag + forget > 1:
        raise click.UsageError("--acknowledge, --lag and --forget exclude each other")
    subscription = Subscription(session.engine, name)
    if handled is not None:
        subscription.acknowledge(_position(handled))
    elif lag:
        found = asdict(subscription.lag())
        lines = [f"{word}\t{'none' if s is None else f'{s:.1f}'}" for word, s in found.items()]
        session.output.record(found, "\n".join(lines))
    elif forget:
        was_known = subscription.forget()
        text = f"{name} is forgotten" if was_known else f"{name} had not acknowledged anything"
        session.output.record({"name": name, "forgotten": was_known}, text)
    else:
        _print(subscription, follow=follow, limit=limit, acknowledges=not no_acknowledge)


def _position(text: str) -> Position:
    try:
        return Position.parse(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not the `position` of a line", param_hint="--acknowledge"
        ) from None


def _print(
    subscription: Subscription, *, follow: bool, limit: int | None, acknowledges: bool
) -> None:
    stop = threading.Event()
    if follow:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: stop.set())
    left, after = limit, None
    while not stop.is_set() and (left is None or left > 0):
        batch = subscription.read(BATCH if left is None else min(BATCH, left), after)
        if batch:
            _write(batch)
            left = None if left is None else left - len(batch)
            if acknowledges:
                subscription.acknowledge(batch[-1])
            else:
                after = batch[-1].position
        elif not follow or stop.wait(PAUSE_SECONDS):
            return


def _write(events: Sequence[SagaEvent]) -> None:
    """Return only when the reader's end of the pipe, or the file, has taken them all."""
    click.echo("\n".join(to_json_line(_values(each)) for each in events))


def _values(event: SagaEvent) -> dict[str, object]:
    """The names that `list` and `show` use too; `saga` is the definition's."""
    return {
        "id": event.id,
        "kind": event.kind,
        "at": event.at,
        "saga_id": event.saga_id,
        "seq": event.seq,
        "saga": event.definition,
        "version": event.version,
        "key": event.key,
        "attributes": dict(event.attributes),
        "parent_id": event.parent_id,
        "data": dict(event.data),
        "position": str(event.position),
    }
