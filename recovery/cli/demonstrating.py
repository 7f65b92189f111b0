"""``amends demo``: the whole story on this machine, in half a minute."""

from __future__ import annotations

import click

from recovery.cli.failures import ExitCode, Failure
from recovery.cli.session import Session, pass_session
from recovery.demo.narrator import narrator
from recovery.demo.show import FAST, FULL, run
from recovery.demo.stage import DemoError
from steps.gateways.sandbox.process import SandboxStartError
from workers.local_servers.errors import LocalServerError


@click.command("demo")
@click.option("--fast", is_flag=True, help="Half the orders and shorter leases: for CI.")
@click.option("--keep", is_flag=True, help="Keep everything running afterwards, until Ctrl-C.")
@click.option("--scenarios", is_flag=True, help="Play only the scenarios of the table.")
@pass_session
def demo_command(session: Session, fast: bool, keep: bool, scenarios: bool) -> None:
    """Run checkouts, kill a worker, play the scenarios, check the books.

    Ends with a table: what each scenario left in the saga log, the gateway's ledger, the stock and
    the logs of all processes, compared with what was promised.

    Starts real servers and real workers, and leaves nothing behind. Needs the extra `local` and
    nothing else: no Docker, no root, no settings. Exits with 1 when a promise did not hold.
    """
    try:
        holds = run(
            narrator(as_json=session.output.as_json),
            FAST if fast else FULL,
            scenarios=scenarios,
            keep=keep,
        )
    except (DemoError, SandboxStartError, LocalServerError) as error:
        raise Failure(str(error), ExitCode.FAILURE) from error
    if not holds:
        raise Failure("a promise did not hold; see the lines marked ✗", ExitCode.FAILURE)
