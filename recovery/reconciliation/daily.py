"""Reconciles one day of a gateway: compare, keep what was found, act, close what is gone.

Safe to repeat, to interrupt, and to start in many places at once: one session at a time has a
gateway's day, a run is kept in one transaction, and every action may be done again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final, Self
from zoneinfo import ZoneInfo

from orchestrator.client import SagaClient
from orchestrator.errors import AmendsError
from orchestrator.instrumentation import emit
from orchestrator.keys import installation_of
from orchestrator.redaction import redact
from orchestrator.storage import installation
from orchestrator.storage.alerts import Alerts
from orchestrator.storage.database import Database
from orchestrator.storage.saga_log import SagaLog
from recovery.reconciliation.actions import Actions
from recovery.reconciliation.business_day import BusinessDay
from recovery.reconciliation.discrepancies import DiscrepancyType
from recovery.reconciliation.handlers import Handler, Handlers
from recovery.reconciliation.pages import about_finding, about_rest, let_be_over
from recovery.reconciliation.records import InvalidRow, Row, TransactionRecord, as_told, row_of
from recovery.reconciliation.storage.comparison import comparison, session
from recovery.reconciliation.storage.findings import Finding, Findings, Run, lock
from steps.gateways.payment import PaymentGateway, ReportLine, UnreadableLine

PAGE_SECONDS: Final = 60.0
"""How long a gateway may take for one page of its report."""

ACTED_AT_ONCE: Final = 500

MADE_UP_FOR: Final = 14
"""How many days back one is still reconciled that was missed, or acted upon that was left."""


class DayNotOverError(AmendsError):
    """The report of a day is complete only when the day is over."""


class DayBusyError(AmendsError):
    """Somebody else is reconciling that gateway's day now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayReport:
    """What became of a day.

    Args:
        found: how many discrepancies of each type the run found, those of today and before alike.
        open: how many of them no person and no later run has closed.
        failed_actions: how many could not be acted upon; the next run tries again.
    """

    run: Run
    found: Mapping[str, int] = field(default_factory=dict)
    open: Mapping[str, int] = field(default_factory=dict)
    failed_actions: int = 0

    @property
    def is_settled(self) -> bool:
        """Nothing is open, and everything could be judged."""
        return not self.open and not self.run.unjudged_count

    def summary(self) -> dict[str, int]:
        """Return how many movements match, and how many discrepancies of each type there are."""
        return {
            "matched": self.run.matched_count,
            **{each.value: self.found.get(each, 0) for each in DiscrepancyType},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    """The gateway's rows of a day, and of its neighbours where there are any."""

    day: Iterable[Row]
    before: Iterable[Row] | None = None
    after: Iterable[Row] | None = None


class DailyReconciliation:
    """Reconciles days of one gateway with one saga log.

    Args:
        client: tells sagas; it needs the definitions of those that may have ended.
        gateway: asked for its report, and what a payment really is. None: reports are given.
        name, zone: of a gateway that cannot be asked; else its own.
        sagas: definitions whose money this gateway moves; empty means all.
    """

    def __init__(
        self,
        database: Database,
        client: SagaClient,
        gateway: PaymentGateway | None = None,
        *,
        name: str | None = None,
        zone: str | None = None,
        sagas: Sequence[str] = (),
    ) -> None:
        told = None if gateway is None else gateway.capabilities
        self.name = name or (told.name if told else "gateway")
        self.zone = zone or (told.business_zone if told else "UTC")
        self._lag = told.lookup_lag if told else timedelta()
        self._database = database
        self._client = client
        self._gateway = gateway
        self._sagas = sagas
        self._findings = Findings(database)
        self._alerts = Alerts(database)
        self._handlers = Handlers()

    def on(self, kind: DiscrepancyType, handler: Handler) -> Self:
        """Have `handler` told of every new discrepancy of that type, beside what is done anyway.

        At least once: when it or the action raises, both are called again by the next run.
        """
        self._handlers.on(kind, handler)
        return self

    def yesterday(self) -> date:
        """Return the latest day that is over in the gateway's zone, by the database's clock."""
        here = self._findings.now().astimezone(ZoneInfo(self.zone))
        return here.date() - timedelta(days=1)

    def time_since(self, day: date) -> timedelta:
        """Return how long ago that day ended."""
        return self._findings.now() - BusinessDay.of(day, self.zone).end

    def is_done(self, day: date) -> bool:
        """Whether that day was reconciled before."""
        return self._findings.run_of(self.name, day) is not None

    def missed(self, day: date) -> date | None:
        """Return the latest day before, of `MADE_UP_FOR`, that nobody reconciled."""
        return self._findings.missed(self.name, day, MADE_UP_FOR)

    def waiting(self, latest: date) -> list[date]:
        """Return the days up to `latest`, `MADE_UP_FOR` back, that wait for an action."""
        return self._findings.waiting(self.name, latest, MADE_UP_FOR)

    def run(self, day: date, reports: Reports | None = None) -> DayReport:
        """Reconcile a day.

        Args:
            reports: the gateway's rows; by default it is asked for them.

        Raises:
            DayNotOverError: the day is not over, or the gateway may not show all of it yet.
            DayBusyError: somebody else is at it.
            ReportFileError, PaymentError: the report cannot be read; nothing was kept.
            LogUnavailableError: Postgres did not answer.
        """
        business_day = BusinessDay.of(day, self.zone)
        if self._findings.now() < business_day.end + self._lag:
            raise DayNotOverError(
                f"{day} is not over in {self.zone}: reconcile it after {business_day.end}"
            )
        given = reports or self._asked(business_day)
        ours = installation.read(self._database).name
        with session(self._database) as connection:
            if not lock(connection, self.name, day):
                raise DayBusyError(f"{self.name}'s {day} is being reconciled by somebody else")
            compared = comparison(connection)
            for rows in (
                _of_day(given.day, business_day),
                _up_to(given.before or (), business_day.end),
                _near(given.after or (), business_day),
            ):
                compared.fill("gateway", _without_others(rows, ours))
            compared.project(business_day, self._sagas)
            compared.pair(
                business_day, before=given.before is not None, after=given.after is not None
            )
            kept = self._findings.keep(compared, self.name, day)
            failed = self._act(day)
            self._close_alerts(day)
        report = DayReport(
            run=kept,
            found=self._findings.counts(self.name, day),
            open=self._findings.counts(self.name, day, open_only=True),
            failed_actions=failed,
        )
        emit(
            "reconciliation.done",
            gateway=self.name,
            day=str(day),
            unjudged=kept.unjudged_count,
            open=sum(report.open.values()),
            **report.summary(),
        )
        return report

    def retry(self, day: date) -> int:
        """Act on what still waits for it, without comparing again; return how many could not be.

        Raises:
            DayBusyError: somebody else is at it.
            LogUnavailableError: Postgres did not answer.
        """
        with session(self._database) as connection:
            if not lock(connection, self.name, day):
                raise DayBusyError(f"{self.name}'s {day} is being reconciled by somebody else")
            failed = self._act(day)
            self._close_alerts(day)
        return failed

    def _asked(self, day: BusinessDay) -> Reports:
        if self._gateway is None:
            raise AmendsError("no gateway to ask for its report: give the report")
        gateway = self._gateway
        before, after = day.day - timedelta(days=1), day.day + timedelta(days=1)
        return Reports(
            day=map(row_of, gateway.list(day.day, timeout_seconds=PAGE_SECONDS)),
            before=map(row_of, gateway.list(before, timeout_seconds=PAGE_SECONDS)),
            after=_until(gateway.list(after, timeout_seconds=PAGE_SECONDS), day),
        )

    def _act(self, day: date) -> int:
        """Act on every row that waits for it, in order; return how many could not be."""
        actions = Actions(self._client, SagaLog(self._database), self._alerts, self._gateway)
        failed, last = 0, None
        while page := self._findings.to_act_on(self.name, day, last, ACTED_AT_ONCE):
            for each in page:
                failed += not self._act_on(each, actions)
            last = page[-1]
        return failed

    def _act_on(self, finding: Finding, actions: Actions) -> bool:
        if finding.is_another_now:
            let_be_over(self._alerts, [about_finding(finding.id)])
        errors = self._handlers.tell(finding.discrepancy) if not finding.act_count else []
        try:
            action = actions.act(finding)
        except Exception as error:  # noqa: BLE001 - one that fails must not keep back the others
            errors.append(error)
        else:
            if not errors:
                self._findings.acted(finding, action.what, action.saga_id)
                return True
        said = redact("; ".join(f"{type(each).__name__}: {each}" for each in errors))[:500]
        self._findings.failed(finding, said)
        if finding.last_error is not None:  # not the first time: it may never go by itself
            actions.page(finding)
        emit("reconciliation.action_failed", discrepancy_id=finding.id, error=said)
        return False

    def _close_alerts(self, day: date) -> None:
        """Let alerts be over whose discrepancy is closed; the last one takes that of the rest."""
        abouts = [about_finding(each) for each in self._findings.closed_ids(self.name, day)]
        if not self._findings.counts(self.name, day, open_only=True):
            abouts.append(about_rest(self.name, day))
        let_be_over(self._alerts, abouts)


def _until(lines: Iterable[ReportLine | UnreadableLine], day: BusinessDay) -> Iterator[Row]:
    """The beginning of the next day's report, read no further than the margin."""
    for each in lines:
        if isinstance(each, ReportLine) and each.at >= day.end + day.margin:
            return
        yield row_of(each)


def _of_day(rows: Iterable[Row], day: BusinessDay) -> Iterator[Row]:
    """The day's own report: a row of another day says that it is not the day's."""
    for each in rows:
        if isinstance(each, TransactionRecord) and _has_moment(each) and not day.holds(each.at):
            yield InvalidRow(why=f"it is not of {day.day}", raw=as_told(each))
        else:
            yield each


def _up_to(rows: Iterable[Row], end: datetime) -> Iterator[Row]:
    """The whole report of the day before: we may have written down much later what it tells of."""
    return (
        each
        for each in rows
        if isinstance(each, TransactionRecord) and _has_moment(each) and each.at < end
    )


def _near(rows: Iterable[Row], day: BusinessDay) -> Iterator[Row]:
    """Of the next day's report what may be this day's; its bad rows are judged with their day."""
    return (
        each
        for each in rows
        if isinstance(each, TransactionRecord) and _has_moment(each) and day.is_near(each.at)
    )


def _without_others(rows: Iterable[Row], ours: str) -> Iterator[Row]:
    """What another installation on the same account did, as its keys say, is reconciled there."""
    return (
        each
        for each in rows
        if not isinstance(each, TransactionRecord)
        or not isinstance(each.key, str)
        or installation_of(each.key) in (None, ours)
    )


def _has_moment(record: TransactionRecord) -> bool:
    at: Any = record.at
    return isinstance(at, datetime) and at.tzinfo is not None
