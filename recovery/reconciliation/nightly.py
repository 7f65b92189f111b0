"""Yesterday, reconciled once its hour has come, whoever looks and however many do.

Beat sends a look every quarter of an hour, instead of one task at the hour: a beat that was down,
a worker that died half-way and a clock change are then nothing special.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from orchestrator.client import SagaClient
from orchestrator.definitions import Definitions
from orchestrator.errors import LogUnavailableError
from orchestrator.instrumentation import emit
from orchestrator.storage.database import Database, Moved
from recovery.reconciliation.daily import (
    DailyReconciliation,
    DayBusyError,
    DayNotOverError,
    DayReport,
)
from steps.gateways.errors import PaymentError
from workers.bootstrap import build_doorbell, lent_gateway
from workers.settings import Settings

RECONCILE: Final = "amends.reconcile"
LOOK_EVERY_SECONDS: Final = 900.0


def reconcile_if_due(
    settings: Settings, database: Database, definitions: Definitions
) -> DayReport | None:
    """Reconcile yesterday unless its hour has not come, or it was done; None then.

    Where it was done, what could not be acted upon, that day or before, is tried again, and a day
    before that nobody reconciled is made up for. What keeps it from being done (the gateway, the
    database) is told, and left to the next look.
    """
    if settings.reconcile_hour is None:
        return None
    client = SagaClient(database.engine, build_doorbell(settings), definitions=definitions)
    with lent_gateway(settings) as gateway:
        daily = DailyReconciliation(database, client, gateway, sagas=settings.reconcile_sagas)
        try:
            return _run_if_due(daily, timedelta(hours=settings.reconcile_hour))
        except (DayBusyError, DayNotOverError):
            return None
        except (LogUnavailableError, Moved, PaymentError) as error:
            emit("reconciliation.failed", error=str(error))
            return None


def _run_if_due(daily: DailyReconciliation, wait: timedelta) -> DayReport | None:
    day = daily.yesterday()
    if daily.time_since(day) < wait:
        return None
    if not daily.is_done(day):
        return daily.run(day)
    for waiting in daily.waiting(day):
        daily.retry(waiting)
    missed = daily.missed(day)
    return daily.run(missed) if missed else None
