"""Does anybody work and sweep, and is anything stuck?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from orchestrator.definitions import Definitions
from orchestrator.state import PARKED
from orchestrator.storage.database import Database
from orchestrator.storage.processes import Processes, SeenProcess
from orchestrator.storage.reads import Reads
from orchestrator.storage.saga_log import SagaLog
from orchestrator.storage.unclaimed import unclaimed_queues
from orchestrator.storage.vital_signs import VitalSigns
from recovery.alerts.unclaimed import in_words, money_of, remedy
from recovery.cli.preview_page import money_text
from recovery.doctor.findings import Finding, ok, warn
from recovery.sweep_loop import KIND
from steps.storage.webhook_inbox import WebhookRows
from workers.settings import Settings

WORKER_SECONDS = 60.0


def workers(database: Database, definitions: Definitions) -> Iterator[Finding]:
    """A worker was seen lately, and can do what this process would start."""
    seen = [each for each in Processes(database).all(WORKER_SECONDS) if _works(each)]
    if not seen:
        yield warn("workers", f"none seen in {WORKER_SECONDS:g} s", "start one: `amends worker`")
        return
    yield ok("workers", f"{len(seen)} seen in the last minute")
    known = {each for worker in seen for each in worker.process.definition_hashes}
    unserved = [str(each) for each in definitions if each.hash not in known]
    if unserved:
        yield warn(
            "definitions",
            f"no worker has {', '.join(unserved)} in this shape",
            "deploy the workers with these definitions (AMENDS_SAGAS)",
        )


def sweepers(database: Database, settings: Settings) -> Iterator[Finding]:
    """Somebody sweeps: a process says so, or at least nothing due is left lying."""
    patience = settings.sweep_patience_seconds
    overdue = VitalSigns(database).overdue(patience)
    seen = Processes(database).all(max(patience, WORKER_SECONDS))
    sweeping = [each for each in seen if each.process.kind == KIND]
    if overdue.sagas:
        longest = timedelta(seconds=round(overdue.longest_seconds))
        yield warn(
            "sweeper",
            f"due, and nobody looks at them: {overdue.sagas}, the oldest for {longest}",
            "run `amends sweep --once` now, and `amends sweep` or beat for good",
        )
    elif sweeping:
        yield ok("sweeper", f"{len(sweeping)} seen, nothing is overdue")
    else:
        yield warn(
            "sweeper",
            "none seen, and nothing is overdue yet",
            "run `amends sweep` or beat, or schedule `amends sweep --once`",
        )


def queues(database: Database, settings: Settings) -> Iterator[Finding]:
    """What is due is taken: every queue has a worker, and those that serve it keep up."""
    log = SagaLog(database)
    waiting = unclaimed_queues(database, settings.alert_unclaimed_seconds)
    for each in waiting:
        money = money_text(money_of(log, each))
        at_risk = f"; at risk: {money}" if money else ""
        hint = (
            "look at what runs (`amends list`) and at the workers' logs, or start more workers"
            if each.served_by
            else f"start one: `{remedy(each)}`, with its sagas in AMENDS_SAGAS"
        )
        yield warn("queues", f"{in_words(each)}{at_risk}", hint)
    if not waiting:
        yield ok("queues", f"nothing waits longer than {settings.alert_unclaimed_seconds:g} s")


def sagas(database: Database, definitions: Definitions) -> Iterator[Finding]:
    """Every saga in flight has its definition here, and none waits for a person."""
    foreign = VitalSigns(database).foreign(definitions.hashes)
    if foreign:
        names = ", ".join(f"{each.definition} v{each.version} ({each.sagas})" for each in foreign)
        yield warn(
            "foreign sagas",
            f"in flight without a definition here: {names}",
            "keep their modules in AMENDS_SAGAS until they have ended",
        )
    else:
        yield ok("foreign sagas", "none")
    counts = Reads(database).counts()
    parked = sum(
        n for by_state in counts.values() for state, n in by_state.items() if state in PARKED
    )
    if parked:
        yield warn(
            "parked sagas",
            f"in front of a person: {parked}",
            "`amends list --needs-attention`, then `amends show ID`",
        )
    else:
        yield ok("parked sagas", "none")


def webhooks(database: Database) -> Iterator[Finding]:
    """None waits for a person; a database without the shop has none."""
    rows = WebhookRows(database)
    if not rows.exist():
        return
    waiting, parked = rows.counts()
    if parked:
        yield warn(
            "webhooks",
            f"in front of a person: {parked}; waiting: {waiting}",
            "`amends webhooks` lists them; then --retry or --dismiss",
        )
    else:
        yield ok("webhooks", f"{waiting} waiting")


def _works(seen: SeenProcess) -> bool:
    return seen.process.kind.startswith("worker")
