"""``amends list`` and ``amends show``: what there is, and what became of one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

from orchestrator.entries import Json
from orchestrator.state import PARKED, State
from orchestrator.storage.reads import MAX_LIMIT, SagaSummary
from orchestrator.storage.saga_log import SagaLog
from recovery.cli.fields import split, typed
from recovery.cli.finding import find_saga
from recovery.cli.output import age
from recovery.cli.saga_page import SagaPage
from recovery.cli.saga_values import saga_values
from recovery.cli.session import Session, pass_session

COLUMNS = ("id", "saga", "key", "state", "step", "attempt", "age", "last_error")


@click.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([each.value for each in State]),
    help="Only sagas in this state; may be repeated.",
)
@click.option("--needs-attention", is_flag=True, help="Only sagas parked in front of a person.")
@click.option("--saga", help="Only sagas of this definition.")
@click.option("--key", help="Only sagas with this key.")
@click.option("--where", multiple=True, metavar="FIELD=VALUE", help="By a search attribute.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--counts", is_flag=True, help="How many are in which state, instead of a list.")
@pass_session
def list_command(
    session: Session,
    states: tuple[str, ...],
    needs_attention: bool,
    saga: str | None,
    key: str | None,
    where: tuple[str, ...],
    limit: int,
    counts: bool,
) -> None:
    """List sagas, the newest first."""
    wanted = [State(each) for each in states] or None
    if needs_attention:
        wanted = [each for each in wanted or PARKED if each in PARKED]
    if counts:
        if key or where:
            raise click.UsageError("--counts goes with --saga and --state only")
        return _list_counts(session, saga, wanted)
    found = _find(
        session,
        limit,
        definition=saga,
        key=key,
        states=wanted,
        attributes=_attributes(session, saga, where),
    )
    now = datetime.now(UTC)
    session.output.rows(COLUMNS, [_row(each, now) for each in found])
    return None


@click.command("show")
@click.argument("saga", metavar="ID")
@pass_session
def show_command(session: Session, saga: str) -> None:
    """Show one saga, attempt by attempt.

    Also what runs or is scheduled now, and the question when it is parked.

    ID is an id, the beginning of one, or a key.
    """
    found = find_saga(session.reads, saga)
    page = SagaPage.of(
        found,
        SagaLog(session.database).entries(found.id),
        session.reads.attempts(found.id),
        session.definitions.version(found.definition, found.version),
    )
    session.output.record(page.as_json(), page.as_text())


def _find(session: Session, limit: int, **filters: Any) -> list[SagaSummary]:
    found: list[SagaSummary] = []
    while len(found) < limit:
        before = found[-1] if found else None
        page = session.reads.find(
            **filters, before=before, limit=min(limit - len(found), MAX_LIMIT)
        )
        found += page
        if not page:
            break
    return found


def _attributes(
    session: Session, saga: str | None, where: tuple[str, ...]
) -> Mapping[str, Json] | None:
    if not where:
        return None
    try:
        pairs = [split(each) for each in where]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--where") from None
    return {name: _attribute(session, saga, name, text) for name, text in pairs}


def _attribute(session: Session, saga: str | None, name: str, text: str) -> Json:
    """By the type that a definition gives it; as text where no definition knows it."""
    names = set()
    for definition in session.definitions:
        if saga is None or definition.name == saga:
            if name in definition.attributes:
                return typed(definition.payload, name, text)
            names |= set(definition.attributes)
    known = ", ".join(sorted(names)) or "none"
    session.output.note(f"{name!r} is no search attribute known here ({known}); taken as text")
    return text


def _list_counts(session: Session, saga: str | None, states: list[State] | None) -> None:
    rows = [
        {"saga": name, "state": state, "count": count}
        for name, by_state in session.reads.counts(saga).items()
        for state, count in by_state.items()
        if states is None or state in states
    ]
    session.output.rows(("saga", "state", "count"), rows)


def _row(saga: SagaSummary, now: datetime) -> dict[str, Any]:
    return {**saga_values(saga), "age": age(now - saga.created_at)}
