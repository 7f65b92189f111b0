"""``amends list`` and ``amends show``: what there is, and what became of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click

from orchestrator.errors import HistoryError
from orchestrator.state import PARKED, PendingAssertion, State
from orchestrator.storage.attention import Attention
from orchestrator.storage.reads import MAX_LIMIT, SagaSummary
from orchestrator.storage.saga_log import SagaLog
from orchestrator.storage.signals import Signals
from recovery.cli.field_options import attributes_of
from recovery.cli.finding import find_saga
from recovery.cli.output import age
from recovery.cli.preview_page import money_text
from recovery.cli.saga_page import SagaPage
from recovery.cli.saga_values import saga_values
from recovery.cli.session import Session, pass_session
from recovery.operator.attention import Row, needing_attention
from recovery.operator.recommending import Advice, recommended, unreadable

ATTENTION_COLUMNS = ("id", "saga", "key", "state", "why", "steps", "for", "at_risk", "next")
COLUMNS = ("id", "saga", "key", "state", "step", "attempt", "age", "last_error")


@click.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([each.value for each in State]),
    help="Only sagas in this state; may be repeated.",
)
@click.option(
    "--needs-attention",
    is_flag=True,
    help="Sagas that are parked, keep failing, are overdue or wait in a queue that nobody serves; "
    "the oldest unknown outcome first.",
)
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
    """List sagas, the newest first.

    With --needs-attention: those that a person should look at, what is at risk in each, and the
    command to type first.
    """
    wanted = [State(each) for each in states] or None
    if needs_attention and not counts:
        if states or key or where:
            raise click.UsageError("--needs-attention goes with --saga and --limit only")
        return _list_attention(session, saga, limit)
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
        attributes=attributes_of(session, saga, where),
    )
    now = datetime.now(UTC)
    session.output.rows(COLUMNS, [_row(each, now) for each in found])
    return None


@click.command("show")
@click.argument("saga", metavar="ID")
@pass_session
def show_command(session: Session, saga: str) -> None:
    """Show one saga, attempt by attempt.

    Also what runs or is scheduled now, the signals that it has not heard, the question when it is
    parked, and what may be done.

    ID is an id, the beginning of one, or a key.
    """
    found = find_saga(session.reads, saga)
    advice, assertions = _advice(session, found.id)
    page = SagaPage.of(
        found,
        SagaLog(session.database).entries(found.id),
        session.reads.attempts(found.id),
        Signals(session.database).undelivered(found.definition, found.key),
        session.definitions.version(found.definition, found.version),
        advice,
        assertions,
    )
    session.output.record(page.as_json(), page.as_text())


def _advice(session: Session, saga_id: UUID) -> tuple[list[Advice], Sequence[PendingAssertion]]:
    """What may be done, and what waits for a second person; of a damaged log only a repair."""
    try:
        case = session.operator.case(saga_id)
    except HistoryError as error:
        return [unreadable(saga_id, error)], ()
    return recommended(case), case.state.pending_assertions(case.now)


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


def _list_attention(session: Session, saga: str | None, limit: int) -> None:
    found = needing_attention(
        Attention(session.database),
        session.reads,
        session.operator,
        saga=saga,
        limit=limit,
        retrying_seconds=session.settings.alert_unknown_seconds,
        overdue_seconds=session.settings.sweep_patience_seconds,
        unclaimed_seconds=session.settings.alert_unclaimed_seconds,
    )
    now = datetime.now(UTC)
    session.output.rows(ATTENTION_COLUMNS, [_attention_row(each, now) for each in found])


def _attention_row(row: Row, now: datetime) -> dict[str, Any]:
    return {
        **saga_values(row.saga),
        "why": row.why,
        "for": age(now - row.since),
        "since": row.since,
        "unknown_since": row.unknown_since,
        "outstanding": list(row.steps),
        "steps": " ".join(row.steps) or row.saga.step,
        "at_risk": money_text(row.money) or None,
        "money_at_risk": {name: asdict(each) for name, each in row.money.items()},
        "assertions": [asdict(each) for each in row.assertions],
        "next": row.advice.command,
        "next_why": row.advice.why,
    }


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
