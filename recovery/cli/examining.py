"""``amends doctor``: is everything as it must be?"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

import click

from recovery.cli.failures import ExitCode, Failure, failure_of
from recovery.cli.output import Output, counted
from recovery.cli.session import Session, pass_session
from recovery.doctor.checkup import checkup
from recovery.doctor.findings import Finding, Verdict

MARKS = {Verdict.OK: "ok  ", Verdict.WARN: "warn", Verdict.FAIL: "FAIL", Verdict.SKIPPED: "-   "}
COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@click.command("doctor")
@click.option(
    "--strict", is_flag=True, help="A warning is a failure too: for a check from elsewhere."
)
@pass_session
def doctor_command(session: Session, strict: bool) -> None:
    """Check installation, settings, servers, workers, sagas.

    What is not as it must be comes with a hint. Exits with 1 when a check fails; a warning is no
    failure.
    """
    counts = Counter[Verdict]()
    for finding in checkup(
        session.settings,
        definitions=lambda: session.definitions,
        engine=lambda: session.engine,
        explain=lambda error: failure_of(error).message,
    ):
        counts[finding.verdict] += 1
        session.output.record(asdict(finding), _line(session.output, finding))
    failed = counts[Verdict.FAIL] + (counts[Verdict.WARN] if strict else 0)
    if failed:
        raise Failure(f"{counted(failed, 'check')} failed", ExitCode.FAILURE)


def _line(output: Output, finding: Finding) -> str:
    mark = output.coloured(MARKS[finding.verdict], COLOURS.get(finding.verdict))
    text = f"{mark}  {finding.check}: {finding.found}"
    if finding.hint:
        text += f"\n        → {finding.hint}"
    return text
