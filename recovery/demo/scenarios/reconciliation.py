"""The gateway's report of the day is held against the log, with three discrepancies in it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from orchestrator.state import State
from orchestrator.storage.alerts import AlertKind
from orchestrator.storage.database import Database
from recovery.cli.failures import ExitCode
from recovery.demo.scenarios.day_that_ends import ZONE, ending_at, next_second
from recovery.demo.scenarios.evidence import challenged, ended, of_order, waits
from recovery.demo.scenarios.order import PRICE_MINOR, UNITS, level_of, stocked
from recovery.demo.scenarios.table import Expectation, in_ledger, in_logs, in_saga_log, in_stock
from recovery.demo.stage import DemoError, Stage, wait_for
from recovery.reconciliation.discrepancies import DiscrepancyType
from recovery.reconciliation.report_file import COLUMNS
from recovery.reconciliation.storage.findings import Finding, Findings
from steps.gateways.payment import MovementKind, ReportLine
from steps.gateways.sandbox.client import SandboxGateway

TITLE: Final = "reconciliation"
LOST, MISSING, ALTERED = "S-6a", "S-6b", "S-6c"
"""Whose webhook never came, whose capture is not in the report, and whose is in it otherwise."""

ALTERED_MINOR: Final = PRICE_MINOR - 100
WAIT_SECONDS: Final = 20.0
KEYS: Final = (LOST, MISSING, ALTERED)
T: Final = DiscrepancyType
TOLD: Final = (T.MISSING_GATEWAY, T.AMOUNT_MISMATCH)
"""What no saga can settle, so that a person is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciliationEvidence:
    """What a run of `amends reconcile` found and did.

    Attributes:
        waited: the state of the saga whose webhook got lost, before the run.
        states: of all three, when they had ended.
        outcomes: how the waiting saga's authorization ended, attempt by attempt.
        exit_code, summary: of the command, and the counts that it printed.
        lines: how many the report had.
        found: per discrepancy its type, the order of the saga it is linked to, what was done.
        kept: per order, what the gateway captured and did not give back.
        levels: per order, what is on hand and what is put aside.
        alerted: why a person was told, in the words of the alerts that were sent.
        events: of the log lines about the saga whose webhook got lost.
    """

    waited: State
    states: Mapping[str, State]
    outcomes: Sequence[str]
    exit_code: int | None
    summary: Mapping[str, int]
    lines: int
    found: Sequence[tuple[str, str | None, str | None]]
    kept: Mapping[str, int]
    levels: Mapping[str, tuple[int, int]]
    alerted: Sequence[str]
    events: Sequence[str]


def play(stage: Stage) -> list[Expectation]:
    """Let a webhook get lost, spoil the report in two places, and reconcile the day."""
    sagas = {key: _started(stage, key) for key in KEYS}
    waited = stage.client.get(sagas[LOST]).state
    findings = Findings(Database(stage.engine))
    midnight = next_second(findings.now())
    day = ending_at(midnight, stage.directory / "zones")
    gateway = SandboxGateway(stage.gateway.base_url, timeout=timedelta(seconds=10))
    lag = gateway.capabilities.lookup_lag
    if not wait_for(lambda: findings.now() >= midnight + lag, WAIT_SECONDS):
        raise DemoError("the day does not end")
    lines = [
        each
        for date in sorted({(midnight - timedelta(hours=1)).date(), midnight.date()})
        for each in gateway.list(date, timeout_seconds=10)
        if isinstance(each, ReportLine) and each.at < midnight
    ]
    gateway.close()
    report, empty = stage.directory / "report.csv", stage.directory / "empty.csv"
    _write(report, _spoiled(lines))
    _write(empty, [])
    exit_code = stage.run(
        "reconcile",
        *("amends", "reconcile", "--json", "--date", day.day.isoformat(), "--zone", ZONE),
        *("--report", str(report), "--before", str(empty), "--after", str(empty)),
        PYTHONTZPATH=day.zones,
    )
    rescued = of_order(stage, sagas[LOST])
    wait_for(lambda: len(_alerts(stage)) >= len(TOLD), WAIT_SECONDS)
    found = findings.find(
        gateway=gateway.capabilities.name, day=day.day, closed_too=True, limit=100
    )
    return expectations(
        ReconciliationEvidence(
            waited=waited,
            states={key: ended(stage, saga_id) for key, saga_id in sagas.items()},
            outcomes=rescued.outcomes("authorize_payment"),
            exit_code=exit_code,
            summary=_summary(stage.directory / "reconcile.log"),
            lines=len(lines),
            found=[_told(stage, each) for each in found],
            kept={key: _kept(stage, key) for key in KEYS},
            levels={key: _level(stage, key) for key in KEYS},
            alerted=sorted(_alerts(stage)),
            events=rescued.events("step.waiting", "saga.completed"),
        )
    )


def expectations(found: ReconciliationEvidence) -> list[Expectation]:
    """Compare what was found with what was promised."""
    return [
        in_saga_log(
            "a checkout waits whose webhook got lost; reconciled, it is told and completes",
            seen=(found.waited, found.outcomes, found.states[LOST]),
            expected=(
                State.WAITING,
                ["waits for payment_authenticated", "succeeded"],
                State.COMPLETED,
            ),
        ),
        in_saga_log(
            "three discrepancies, each named and linked to its saga",
            seen=sorted(found.found, key=str),
            expected=sorted(
                [
                    (T.MISSING_INTERNAL.value, LOST, "signalled payment_authenticated"),
                    (T.MISSING_GATEWAY.value, MISSING, "told a person"),
                    (T.AMOUNT_MISMATCH.value, ALTERED, "told a person"),
                ],
                key=str,
            ),
        ),
        in_ledger(
            f"of {found.lines} movements of the day all others match",
            seen=(found.summary.get("matched"), found.summary.get("unjudged")),
            expected=(found.lines - len(KEYS), 0),
        ),
        in_ledger(
            "each order is charged once",
            seen=dict(found.kept),
            expected=dict.fromkeys(KEYS, PRICE_MINOR),
        ),
        in_stock(
            "1 of 10 shipped of each, none put aside",
            seen=dict(found.levels),
            expected=dict.fromkeys(KEYS, (UNITS - 1, 0)),
        ),
        in_logs(
            "amends reconcile says one of each, and exits with 8",
            seen=(found.exit_code, {each: found.summary.get(each) for each in T}),
            expected=(
                ExitCode.DISCREPANCIES.value,
                {each: int(each in (T.MISSING_INTERNAL, *TOLD)) for each in T},
            ),
        ),
        in_logs("alerts of the two that need a person", seen=found.alerted, expected=sorted(TOLD)),
        in_logs(
            "the wait and its end",
            seen=found.events,
            expected=["step.waiting", "saga.completed"],
        ),
    ]


def _started(stage: Stage, key: str) -> UUID:
    """Start an order; the one whose webhook gets lost waits, and its payer has authenticated."""
    if key != LOST:
        saga = stage.client.start("checkout", stocked(stage, key), key=key)
        ended(stage, saga.id)
        return saga.id
    stage.judge.script("lost_webhook", order_reference=key, times=None)
    payload = stocked(stage, key, payment_method="tok_challenge")
    saga = stage.client.start("checkout", payload, key=key)
    waits(stage, saga.id)
    stage.judge.end_challenge(challenged(stage, key), passed=True)
    return saga.id


def _spoiled(lines: Iterable[ReportLine]) -> list[dict[str, Any]]:
    """The report's rows, without one capture, and with another amount of another."""
    return [
        _row(each)
        for each in lines
        if (each.kind, each.order_reference) != (MovementKind.CAPTURE, MISSING)
    ]


def _row(line: ReportLine) -> dict[str, Any]:
    is_altered = (line.kind, line.order_reference) == (MovementKind.CAPTURE, ALTERED)
    return {
        "at": line.at.isoformat(),
        "operation": line.kind.value,
        "reference": line.reference,
        "payment_reference": line.payment_reference,
        "order_reference": line.order_reference,
        "amount_minor": ALTERED_MINOR if is_altered else line.amount.minor,
        "currency": line.amount.currency,
        "key": line.key,
    }


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _summary(log: Path) -> dict[str, int]:
    """The counts that the command printed."""
    for text in log.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if "matched" in line:
            return {name: each for name, each in line.items() if isinstance(each, int)}
    return {}


def _told(stage: Stage, finding: Finding) -> tuple[str, str | None, str | None]:
    saga_id = finding.discrepancy.saga_id
    key = None if saga_id is None else stage.client.get(saga_id).key
    return finding.discrepancy.type.value, key, finding.action


def _kept(stage: Stage, key: str) -> int:
    total = stage.judge.totals_of(key)
    return 0 if total is None else total.kept_minor


def _level(stage: Stage, key: str) -> tuple[int, int]:
    level = level_of(stage, key)
    return level.on_hand, level.reserved


def _alerts(stage: Stage) -> list[str]:
    """Why somebody was told of a discrepancy, by what was sent so far."""
    if not stage.alerts.exists():
        return []
    sent = stage.alerts.read_text().replace("}{", "}\n{").splitlines()
    alerts = [json.loads(each)["data"] for each in sent if each.strip()]
    return [each["reason"] for each in alerts if each["kind"] == AlertKind.DISCREPANCY]
