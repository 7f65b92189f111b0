"""``amends check-deploy`` and ``migrate-saga``: what a new build does to the sagas in flight."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from orchestrator.storage.attention import Filter
from orchestrator.storage.vital_signs import VitalSigns
from recovery.cli.failures import ExitCode, Failure
from recovery.cli.output import age, counted
from recovery.cli.retrying import for_many
from recovery.cli.session import Session, pass_session
from recovery.cli.verb_options import acting_options, by_of, carry_out
from recovery.operator.many import CAP
from recovery.operator.verbs import Migrate

COLUMNS = ("saga", "version", "count", "parked", "oldest", "example", "why")


@click.command("check-deploy")
@pass_session
def check_deploy_command(session: Session) -> None:
    """Name the sagas in flight that this build cannot finish or take back.

    Run it with the new build's code and settings (AMENDS_SAGAS) against the live database, before
    its workers replace the old ones. Exits with 7 if there are any.
    """
    now = datetime.now(UTC)
    signs, hashes = VitalSigns(session.database), session.definitions.hashes
    left = [
        *((each, "its definition is not in this build") for each in signs.foreign(hashes)),
        *((each, "a newer build wrote into its log") for each in signs.unreadable(hashes)),
    ]
    rows = [
        {
            "saga": each.definition,
            "version": each.version,
            "hash": each.definition_hash,
            "count": each.sagas,
            "parked": each.parked,
            "oldest": age(now - each.oldest),
            "oldest_at": each.oldest,
            "example": each.example,
            "why": why,
        }
        for each, why in left
    ]
    session.output.rows(COLUMNS, rows)
    if left:
        sagas = sum(each.sagas for each, _ in left)
        raise Failure(
            f"this build cannot finish or take back {counted(sagas, 'saga')}: keep those versions "
            "in AMENDS_SAGAS until they have ended, or move parked ones with `amends migrate-saga`",
            ExitCode.LEFT_BEHIND,
        )
    session.output.note("every saga in flight can go on with this build")


@click.command("migrate-saga")
@click.argument("saga_id", metavar="[ID]", required=False)
@click.option("--to", "version", type=int, required=True, help="The version it goes on under.")
@click.option("--all", "every", is_flag=True, help="All parked ones of --saga and --from.")
@click.option("--saga", help="With --all: of this definition.")
@click.option("--from", "older", type=int, help="With --all: of this version.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=CAP,
    show_default=True,
    help="With --all: at most so many of them, the oldest.",
)
@click.option("--yes", is_flag=True, help="Do not ask whether so many are meant.")
@acting_options
@pass_session
def migrate_saga_command(
    session: Session,
    saga_id: str | None,
    version: int,
    every: bool,
    saga: str | None,
    older: int | None,
    limit: int,
    yes: bool,
    reason: str,
    actor: str | None,
    seen: int | None,
    dry_run: bool,
) -> None:
    """Let a parked saga go on under a newer version, whose definition declares how (`migrates=`).

    Checked: every step that ran has a counterpart that is undone in the same way, and the payload
    fits. The saga stays parked; `amends retry` lets it go on.

    ID is an id, the beginning of one, or a key.
    """
    by, verb = by_of(reason, actor), Migrate(version=version)
    if every is (saga_id is not None):
        raise click.UsageError("name one saga, or --all with --saga and --from")
    if saga_id is not None:
        if saga or older:
            raise click.UsageError("--saga and --from go with --all")
        return carry_out(session, saga_id, verb, by, seen=seen, dry_run=dry_run)
    if saga is None or older is None or seen is not None:
        raise click.UsageError("--all needs --saga and --from, and has no --seen")
    wanted = Filter(definition=saga, version=older)
    return for_many(session, wanted, verb, by, limit=limit, yes=yes, dry_run=dry_run)
