"""``amends repair``: what is wrong with a log that cannot be read, and voiding what is no fact."""

from __future__ import annotations

import json
from dataclasses import asdict
from uuid import UUID

import click

from recovery.cli.finding import find_saga
from recovery.cli.session import Session, pass_session
from recovery.cli.verb_options import by_of
from recovery.operator.repairing import Damaged, Diagnosis

SHOWN = 300


@click.command("repair")
@click.argument("saga", metavar="ID")
@click.option(
    "--void",
    "voids",
    metavar="SEQ",
    multiple=True,
    type=click.IntRange(min=2),
    help="An entry that is no fact; may be repeated. It stays in the log and does not count.",
)
@click.option("--close", is_flag=True, help="Close the saga as it stands instead: resolved.")
@click.option("--reason", help="Kept in the saga's log; needed to act.")
@click.option("--actor", help="What you call yourself; who you are is found out.")
@click.option(
    "--seen",
    metavar="SEQ",
    type=click.IntRange(min=1),
    help="Act only if the saga still is at this seq.",
)
@pass_session
def repair_command(
    session: Session,
    saga: str,
    voids: tuple[int, ...],
    close: bool,
    reason: str | None,
    actor: str | None,
    seen: int | None,
) -> None:
    """Show which entries of a saga's log cannot be believed, or void them and let it go on.

    Without --void and --close nothing is written. What a voided entry told of is unknown again, and
    is settled as always: the step is asked about, or repeated under its key. A saga of which you
    void an entry that was not listed ends only as resolved.

    ID is an id, the beginning of one, or a key.
    """
    found = find_saga(session.reads, saga)
    if not voids and not close:
        return _show(session, session.operator.diagnosis(found.id))
    if voids and close:
        raise click.UsageError("--void and --close do not go together")
    by = by_of(reason or "", actor)
    if close:
        state = session.operator.close_unreadable(found.id, by, seen=seen)
    else:
        state = session.operator.repair(found.id, voids, by, seen=seen)
    told = f"{found.definition} {found.key} ({found.id}): repaired; it is {state}"
    session.output.record({"id": str(found.id), "state": state, "voided": list(voids)}, told)
    return None


def _show(session: Session, found: Diagnosis) -> None:
    session.output.record(
        {
            "id": str(found.saga.id),
            "seq": found.saga.seq,
            "damaged": [asdict(each) for each in found.damaged],
            "state_without": found.state,
        },
        "\n".join([_title(found), *(_line(each) for each in found.damaged), *_next(found)]),
    )


def _title(found: Diagnosis) -> str:
    saga = found.saga
    what = "entries that cannot be believed" if found.damaged else "its log can be read"
    return f"{saga.definition} {saga.key} ({saga.id}), seq {saga.seq}: {what}"


def _line(each: Damaged) -> str:
    says = json.dumps(each.says, ensure_ascii=False)
    return f"  {each.seq}  {each.kind}: {each.why}\n     it says {says[:SHOWN]}"


def _next(found: Diagnosis) -> list[str]:
    if not found.damaged:
        return []
    if found.state is None:
        return ["", "it cannot be read from its first entry on", f"  {_close(found.saga.id)}"]
    voids = " ".join(f"--void {each.seq}" for each in found.damaged)
    return [
        "",
        f"without them it is {found.state}, and goes on:",
        f'  amends repair {found.saga.id} {voids} --reason "…"',
        "or it is closed as it stands:",
        f"  {_close(found.saga.id)}",
    ]


def _close(saga_id: UUID) -> str:
    return f'amends repair {saga_id} --close --reason "…"'
