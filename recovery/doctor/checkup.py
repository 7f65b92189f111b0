"""The order of the checks, and what is left out when something before it failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from orchestrator.definitions import Definitions
from orchestrator.errors import AmendsError
from orchestrator.storage.database import Database
from recovery.doctor import activity, installation, naming, readers, servers
from recovery.doctor.circuits import circuits
from recovery.doctor.findings import Check, Finding, Verdict, fail, skipped
from workers.settings import Settings


def checkup(
    settings: Settings,
    *,
    definitions: Callable[[], Definitions],
    engine: Callable[[], Any],
    explain: Callable[[Exception], str],
) -> Iterator[Finding]:
    """Yield every finding. No check can end the check-up by raising.

    Args:
        settings: of this process.
        definitions, engine: built when first needed, for building them may fail.
        explain: makes one line of an exception.
    """
    yield from _guarded("python", installation.python, explain)
    yield from _guarded("packages", installation.packages, explain)
    yield from _guarded("names", installation.names, explain)
    yield from _guarded("settings", lambda: installation.settings(settings), explain)
    yield from _broker(settings, explain)
    yield from _guarded("circuits", lambda: circuits(settings, definitions()), explain)
    if settings.database_url is None:
        yield skipped("database", "no database is set")
        return
    findings = list(_guarded("database", lambda: servers.database(Database(engine())), explain))
    yield from findings
    if any(each.check == "database" and each.verdict is Verdict.FAIL for each in findings):
        yield skipped("schema", "the database does not answer")
        return
    findings = list(_guarded("schema", lambda: servers.schemas(engine()), explain))
    yield from findings
    if any(each.verdict is Verdict.FAIL for each in findings):
        yield skipped("sagas", "the schema is not this version's")
        return
    database = Database(engine())
    for name, check in (
        ("installation", lambda: naming.installation(database, settings)),
        ("workers", lambda: activity.workers(database, definitions())),
        ("sweeper", lambda: activity.sweepers(database, settings)),
        ("queues", lambda: activity.queues(database, settings)),
        ("sagas", lambda: activity.sagas(database, definitions())),
        ("webhooks", lambda: activity.webhooks(database)),
        ("event readers", lambda: readers.readers(database)),
    ):
        yield from _guarded(name, check, explain)


def _broker(settings: Settings, explain: Callable[[Exception], str]) -> Iterator[Finding]:
    if settings.broker_url is None:
        yield skipped("broker", "no broker is set")
    else:
        yield from _guarded("broker", lambda: servers.broker(settings), explain)


def _guarded(name: str, check: Check, explain: Callable[[Exception], str]) -> Iterator[Finding]:
    try:
        yield from check()
    except AmendsError as error:
        yield fail(name, explain(error), "mend that first; the message says how")
    except Exception as error:  # noqa: BLE001 - whatever it is, the other checks matter more
        yield fail(name, explain(error), "is the URL right, and is the server up?")
