"""``amends retry``: another try, for one saga or for all that a filter matches."""

from __future__ import annotations

import sys
from typing import Any

import click

from orchestrator.state import PARKED, State
from orchestrator.storage.attention import Attention, Filter
from recovery.cli.failures import ExitCode, Failure
from recovery.cli.field_options import attributes_of
from recovery.cli.output import counted
from recovery.cli.session import Session, pass_session
from recovery.cli.verb_options import acting_options, by_of, carry_out, take_back_option
from recovery.operator.many import CAP, Matches, act_on_each, matches
from recovery.operator.verbs import By, Retry, Verb

MOVING = (State.RUNNING, State.COMPENSATING)
COLUMNS = ("id", "saga", "key", "state", "refused")


@click.command("retry")
@click.argument("saga_id", metavar="[ID]", required=False)
@click.option("--saga", help="All of this definition.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([each.value for each in (*PARKED, *MOVING)]),
    help="All in this state; may be repeated. Without it: all that are parked.",
)
@click.option("--because", help="All that are parked for this reason, like unknown.")
@click.option("--step", help="All that ask about this step, or try it again.")
@click.option("--where", multiple=True, metavar="FIELD=VALUE", help="By a search attribute.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=CAP,
    show_default=True,
    help="At most so many of them, the oldest.",
)
@click.option("--yes", is_flag=True, help="Do not ask whether so many are meant.")
@take_back_option()
@acting_options
@pass_session
def retry_command(
    session: Session,
    saga_id: str | None,
    saga: str | None,
    states: tuple[str, ...],
    because: str | None,
    step: str | None,
    where: tuple[str, ...],
    limit: int,
    yes: bool,
    take_back: bool,
    reason: str,
    actor: str | None,
    seen: int | None,
    dry_run: bool,
) -> None:
    """Try again, now.

    A parked saga goes on where it stopped, with budgets that begin anew. Of a saga that waits out a
    pause between two tries the next try comes due at once. Without ID: all that match.

    ID is an id, the beginning of one, or a key.
    """
    by, verb = by_of(reason, actor), Retry(take_back=take_back)
    filters = (saga, states, because, step, where)
    if saga_id is not None:
        if any(filters):
            raise click.UsageError("name one saga, or filters for many, not both")
        return carry_out(session, saga_id, verb, by, seen=seen, dry_run=dry_run)
    if not any(filters):
        raise click.UsageError("name a saga, or say which ones: --saga, --state, --because, …")
    if seen is not None:
        raise click.UsageError("--seen goes with one saga")
    wanted = Filter(
        definition=saga,
        states=[State(each) for each in states] or tuple(PARKED),
        reason=because,
        step=step,
        attributes=attributes_of(session, saga, where),
    )
    return for_many(session, wanted, verb, by, limit=limit, yes=yes, dry_run=dry_run)


def for_many(
    session: Session,
    wanted: Filter,
    verb: Verb,
    by: By,
    *,
    limit: int,
    yes: bool,
    dry_run: bool,
) -> None:
    """Count what a filter matches, ask, and do the verb to each of the oldest."""
    found = matches(Attention(session.database), wanted, limit)
    taken = len(found.sagas)
    more = f"; the oldest {taken:,} are taken" if taken < found.count else ""
    session.output.note(f"{counted(found.count, 'saga')} to {verb.name}{more}")
    if dry_run or not found.sagas:
        session.output.rows(COLUMNS, _named(session, found))
        return
    if not yes:
        _confirm(taken, verb)
    done = act_on_each(session.operator, found, verb, by)
    refused = dict(done.refused)
    session.output.rows(COLUMNS, _named(session, found, refused))
    session.output.note(f"{len(done.done):,} done, {len(refused):,} refused")
    if refused:
        raise Failure(f"{counted(len(refused), 'saga')} refused", ExitCode.CONFLICT)


def _confirm(count: int, verb: Verb) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError(f"to {verb.name} {counted(count, 'saga')} say --yes")
    click.confirm(f"{verb.name} {counted(count, 'saga')}?", abort=True, err=True)


def _named(
    session: Session, found: Matches, refused: dict[Any, str] | None = None
) -> list[dict[str, Any]]:
    rows = []
    for saga_id, seq in found.sagas:
        saga = session.client.get(saga_id)
        rows.append(
            {
                "id": saga_id,
                "saga": saga.definition,
                "key": saga.key,
                "state": saga.state,
                "seen": seq,
                "refused": (refused or {}).get(saga_id),
            }
        )
    return rows
