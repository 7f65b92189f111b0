"""``amends verify``: the invariants, held against a live database."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import click

from recovery.cli.failures import ExitCode, Failure
from recovery.cli.output import counted
from recovery.cli.session import Session, pass_session
from recovery.verification import Verification
from workers import bootstrap

_LASTING = re.compile(r"([1-9]\d{0,4})([dhm])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def _lasting(_ctx: click.Context, _param: click.Parameter, value: str) -> timedelta:
    found = _LASTING.fullmatch(value)
    if found is None:
        raise click.BadParameter("a number and d, h or m, like 7d or 12h")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


@click.command("verify")
@click.option(
    "--since",
    "lasting",
    metavar="AGE",
    default="1d",
    show_default=True,
    callback=_lasting,
    help="Judge what moved so long ago and later, like 7d or 12h; and all that has not ended.",
)
@click.option(
    "--gateway", is_flag=True, help="Also against the gateway's own reports of those days."
)
@pass_session
def verify_command(session: Session, lasting: timedelta, gateway: bool) -> None:
    """Hold logs, rows, books and the gateway's reports against each other.

    Reads only, at one moment, on the primary. One line for each violation; exits with 9 if there
    is one.
    """
    lent: Any = bootstrap.lent_gateway(session.settings) if gateway else nullcontext()
    with lent as asked:
        verification = Verification(session.database, session.definitions, asked)
        for each in verification.run(lasting):
            session.output.record(asdict(each), str(each))
    judged = verification.verified
    told = f"{counted(judged.sagas, 'saga')} judged"
    if judged.newer:
        told += f", {judged.newer} left to a newer version"
    if judged.foreign:
        told += f", {judged.foreign} without their definition"
    if gateway:
        told += f", {counted(judged.lines, 'line')} of reports"
    if judged.violations:
        raise Failure(f"{counted(judged.violations, 'violation')}; {told}", ExitCode.VIOLATIONS)
    session.output.note(f"no violation; {told}")
