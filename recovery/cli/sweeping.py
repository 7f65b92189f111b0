"""``amends sweep``: every few seconds as a service, once for cron, or beside a prefork worker."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import asdict

import click

from orchestrator.storage.processes import Processes
from recovery.alerts.loop import AlertLoop
from recovery.alerts.notifier import Notifier
from recovery.beside import Beside
from recovery.cli.output import Output
from recovery.cli.session import Session, pass_session
from recovery.sweep_loop import KIND, SweepLoop, sweeper_process
from recovery.sweeper import Sweeper, SweepReport
from recovery.webhook_loop import WebhookLoop
from workers import telemetry
from workers.owner import owner
from workers.settings import Settings

ONCE_SECONDS = 50.0
"""So long a sweep for cron goes on with a backlog, until the next one is due."""


@click.command("sweep")
@click.option("--once", is_flag=True, help="Sweep once and exit: for cron and timers.")
@click.option(
    "--interval",
    "interval_seconds",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="Instead of AMENDS_SWEEP_SECONDS.",
)
@click.option(
    "--beside",
    is_flag=True,
    hidden=True,  # a prefork worker's own; nobody types it
    help="As the side process of a worker: reads `died OWNER` lines on stdin, ends with it.",
)
@pass_session
def sweep_command(
    session: Session, once: bool, interval_seconds: float | None, beside: bool
) -> None:
    """Find what is due and nobody is moving, and have workers go on with it.

    After a crash or a lost message nothing else does. Sends alerts and processes webhooks too.
    Sweeps for ever, every AMENDS_SWEEP_SECONDS. Safe to run anywhere, any number of times at once.
    Needs the broker, as a worker does.
    """
    if once and (beside or interval_seconds is not None):
        raise click.UsageError("--once excludes --interval and --beside")
    telemetry.configure(session.settings)
    session.settings.require_broker_url()  # a sweep that can ring nobody would only hold rows back
    sweeper = Sweeper(session.coordinator, session.database)
    if once:
        _sweep_once(session, sweeper)
        return
    settings = _with_interval(session.settings, interval_seconds)
    loop = SweepLoop(
        sweeper,
        session.database,
        definitions=session.definitions,
        interval_seconds=settings.sweep_seconds,
        on_report=lambda report: None if beside or report.is_quiet else _log(session, report),
    )
    webhooks = WebhookLoop.of(settings, session.database, session.client)
    with AlertLoop.of(settings, session.database, sweeps=True), webhooks:
        if beside:
            Beside(loop).run()
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: loop.stop())
        loop.run()


def _sweep_once(session: Session, sweeper: Sweeper) -> None:
    """Sweep, and then process webhooks and alert, which may wait for others."""
    name = f"{owner().partition('/')[0]}/once/{KIND}"  # of the host: the next run has another pid
    Processes(session.database).seen(sweeper_process(session.definitions, name))
    until = time.monotonic() + ONCE_SECONDS
    report = sweeper.run_once()
    while sweeper.has_more and time.monotonic() < until:
        report += sweeper.run_once()
    _tell(session.output, report)
    WebhookLoop.of(session.settings, session.database, session.client).run_once()
    Notifier.of(session.settings, session.database).run_once()


def _with_interval(settings: Settings, seconds: float | None) -> Settings:
    return settings if seconds is None else settings.model_copy(update={"sweep_seconds": seconds})


def _log(session: Session, report: SweepReport) -> None:
    """Tell a person at a terminal in words; elsewhere this is a log, and every line of it JSON."""
    _tell(session.output if sys.stdout.isatty() else Output(as_json=True), report)


def _tell(output: Output, report: SweepReport) -> None:
    counts = asdict(report)
    output.record(
        counts, ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
    )
