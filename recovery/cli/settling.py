"""``amends idempotency``: idempotent calls whose end nobody knows, and saying how they ended."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click

from orchestrator.idempotency import Released, Succeeded, settle
from orchestrator.idempotency_record import IdempotencyRecord
from orchestrator.storage.idempotency import PostgresIdempotencyStore
from recovery.cli.actor import this_person
from recovery.cli.output import age
from recovery.cli.session import Session, pass_session

UNKNOWN_COLUMNS = ("scope", "key", "age", "owner", "error", "seen")
SETTLED_COLUMNS = ("scope", "key", "outcome", "settled_by", "settled_because", "age")


@click.command("idempotency")
@click.argument("scope", required=False)
@click.argument("key", required=False)
@click.option("--result", metavar="JSON", help="It happened: what later callers get.")
@click.option("--not-done", is_flag=True, help="It did not happen: the next call runs.")
@click.option("--reason", help="Kept for good.")
@click.option("--actor", help="Who says so; by default the user of this machine.")
@click.option(
    "--seen",
    type=click.UUID,
    metavar="TOKEN",
    help="Only the call that was listed with it, not a later one of the same key.",
)
@click.option("--settled", is_flag=True, help="List instead who settled what, the latest first.")
@click.option("--limit", type=click.IntRange(min=1, max=1000), default=100, show_default=True)
@pass_session
def idempotency_command(
    session: Session,
    scope: str | None,
    key: str | None,
    result: str | None,
    not_done: bool,
    reason: str | None,
    actor: str | None,
    seen: UUID | None,
    settled: bool,
    limit: int,
) -> None:
    """List idempotent calls whose end nobody knows, or settle the one of SCOPE and KEY.

    Ask the other side first, and late: after the longest time that the call may take.
    """
    store = PostgresIdempotencyStore(session.engine)
    said = result is not None or not_done
    if scope is None and not (said or seen or reason):
        return _list(session, store, settled=settled, limit=limit)
    if scope is None or key is None or settled or (result is not None) is not_done:
        raise click.UsageError("settling takes SCOPE, KEY and either --result or --not-done")
    if not (reason or "").strip():
        raise click.UsageError("--reason needs a reason; it is kept for good")
    record = settle(
        store,
        scope,
        key,
        Released() if result is None else Succeeded(result=_json(result)),
        by=actor or this_person(),
        because=reason or "",
        seen=seen,
    )
    done = "did not happen, the key is free" if not_done else "happened"
    session.output.record(_record(record), f"{scope} {key}: it {done} (by {record.settled_by})")
    return None


def _list(session: Session, store: PostgresIdempotencyStore, *, settled: bool, limit: int) -> None:
    now = datetime.now(UTC)
    if settled:
        rows = [
            {**asdict(each), "age": age(now - each.settled_at)} for each in store.settlements(limit)
        ]
        session.output.rows(SETTLED_COLUMNS, rows)
        return
    unknown = [
        {**_record(each), "age": age(now - each.claimed_at)} for each in store.unknown(limit)
    ]
    session.output.rows(UNKNOWN_COLUMNS, unknown)


def _record(record: IdempotencyRecord) -> dict[str, Any]:
    return {
        "scope": record.call.scope,
        "key": record.call.key,
        "state": record.state,
        "owner": record.owner,
        "claimed_at": record.claimed_at,
        "ended_at": record.ended_at,
        "error": None if record.error is None else json.dumps(record.error),
        "seen": None if record.token is None else str(record.token),
        "settled_by": record.settled_by,
        "settled_because": record.settled_because,
    }


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"it is not JSON: {error}", param_hint="--result") from None
