"""``amends resolve``, ``abandon`` and ``replay``: ending a saga by hand, and doing it anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from orchestrator.entries import Json
from recovery.cli.field_options import settings_of
from recovery.cli.finding import find_saga
from recovery.cli.session import Session, pass_session
from recovery.cli.verb_options import by_of, carry_out, verb_options
from recovery.operator.replaying import Replay
from recovery.operator.verbs import Abandon, Resolve


@click.command("resolve")
@verb_options
@pass_session
def resolve_command(
    session: Session, saga: str, reason: str, actor: str | None, seen: int | None, dry_run: bool
) -> None:
    """Close a parked saga as it stands, because its matter was settled by hand.

    Nothing of it is taken back or goes on, and it never moves again by itself. Over open money or
    an unknown outcome a second person has to confirm it.

    ID is an id, the beginning of one, or a key.
    """
    carry_out(session, saga, Resolve(), by_of(reason, actor), seen=seen, dry_run=dry_run)


@click.command("abandon")
@verb_options
@pass_session
def abandon_command(
    session: Session, saga: str, reason: str, actor: str | None, seen: int | None, dry_run: bool
) -> None:
    """Close any saga as it stands, parked or not: nothing is taken back.

    For a saga whose definition is gone, or that must not go on. To have it taken back: cancel. Over
    open money or an unknown outcome a second person has to confirm it.

    ID is an id, the beginning of one, or a key.
    """
    carry_out(session, saga, Abandon(), by_of(reason, actor), seen=seen, dry_run=dry_run)


@click.command("replay")
@verb_options
@click.option("--key", help="The new saga's; by default the old one's with ~2, or the next number.")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="What differs.")
@click.option(
    "--payload",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with another payload, as JSON.",
)
@click.option(
    "--again", is_flag=True, help="Although it completed, or left money open: all of it once more."
)
@pass_session
def replay_command(
    session: Session,
    saga: str,
    reason: str,
    actor: str | None,
    seen: int | None,
    dry_run: bool,
    key: str | None,
    settings: tuple[str, ...],
    path: Path | None,
    again: bool,
) -> None:
    """Do an ended saga's work again, as a new saga under the latest version.

    The new one has a key of its own and names the old one; both logs tell of it.

    ID is an id, the beginning of one, or a key.
    """
    found = find_saga(session.reads, saga)
    definition = session.definitions.latest(found.definition)
    replay = Replay(
        key=key,
        payload=_payload(path),
        changes=settings_of(definition, settings),
        again=again,
    )
    by = by_of(reason, actor)
    answer: dict[str, Any] = {"replay_of": found.id, "saga": found.definition, "dry_run": dry_run}
    if dry_run:
        work = session.operator.preview_replay(found.id, replay, seen=seen)
        session.output.record(
            {**answer, "id": None, "key": work.key, "version": work.definition.version},
            f"{work.definition} {work.key} would be started in place of {found.key}; "
            "nothing is written",
        )
        return
    started = session.operator.replay(found.id, replay, by, seen=seen)
    session.output.record(
        {**answer, "id": started.id, "key": started.key, "version": definition.version},
        f"{definition} {started.key} ({started.id}) does the work of {found.key} again",
    )


def _payload(path: Path | None) -> Json:
    if path is None:
        return None
    try:
        read = json.loads(path.read_text())
    except ValueError as error:
        raise click.BadParameter(f"{path} is not JSON: {error}", param_hint="--payload") from None
    if not isinstance(read, dict):
        raise click.BadParameter(f"{path} holds no JSON object", param_hint="--payload")
    return read
