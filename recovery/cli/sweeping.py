"""``amends sweep``: every few seconds as a service, once for cron, or beside a prefork worker."""

from __future__ import annotations

import signal
from dataclasses import asdict

import click

from recovery.beside import Beside
from recovery.cli.session import Session, pass_session
from recovery.sweep_loop import SweepLoop
from recovery.sweeper import Sweeper, SweepReport
from workers import telemetry


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
    """Put back on the road what nobody is moving.

    Sweeps for ever, every AMENDS_SWEEP_SECONDS. Safe to run anywhere, any number of times at once.
    Needs the broker, as a worker does.
    """
    if once and (beside or interval_seconds is not None):
        raise click.UsageError("--once excludes --interval and --beside")
    session.settings.require_broker_url()  # a sweep that can ring nobody would only hold rows back
    sweeper = Sweeper(session.coordinator, session.database)
    if once:
        _tell(session, sweeper.run_once())
        return
    telemetry.configure(session.settings)
    loop = SweepLoop(
        sweeper,
        session.database,
        definitions=session.definitions,
        interval_seconds=interval_seconds or session.settings.sweep_seconds,
        on_report=lambda report: None if report.is_quiet else _tell(session, report),
    )
    if beside:
        Beside(loop).run()
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: loop.stop())
    loop.run()


def _tell(session: Session, report: SweepReport) -> None:
    counts = asdict(report)
    session.output.record(
        counts, ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
    )
