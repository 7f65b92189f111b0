"""``amends wait``: until sagas have ended or stand in front of a person."""

from __future__ import annotations

import time

import click

from orchestrator.errors import WaitTimeoutError
from orchestrator.state import PARKED, TERMINAL, State
from recovery.cli.failures import ExitCode, Failure
from recovery.cli.finding import find_saga
from recovery.cli.session import Session, pass_session

PAUSE_SECONDS = 0.2


@click.command("wait")
@click.argument("sagas", metavar="ID...", nargs=-1, required=True)
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds to wait for all of them.",
)
@pass_session
def wait_command(session: Session, sagas: tuple[str, ...], timeout_seconds: float) -> None:
    """Wait until every saga has ended.

    Prints each as it does. Exits with 1 when one of them is parked, or when the time is up.

    ID is an id, the beginning of one, or a key.
    """
    until = time.monotonic() + timeout_seconds
    left = {saga.id: saga for saga in (find_saga(session.reads, each) for each in sagas)}
    parked = []
    while True:
        states = session.reads.states(list(left))
        for saga_id in [each for each, state in states.items() if _is_still(state)]:
            saga, state = left.pop(saga_id), states[saga_id]
            session.output.record(
                {"id": saga.id, "saga": saga.definition, "key": saga.key, "state": state},
                f"{saga.id}\t{saga.key}\t{state}",
            )
            if state in PARKED:
                parked.append(saga.key)
        if not left:
            break
        if time.monotonic() >= until:
            keys = ", ".join(each.key for each in list(left.values())[:5])
            raise WaitTimeoutError(
                f"{len(left)} still under way after {timeout_seconds:g} s ({keys}): "
                "`amends show` tells where; `amends doctor` whether a worker is there"
            )
        time.sleep(min(PAUSE_SECONDS, max(0.0, until - time.monotonic())))
    if parked:
        raise Failure(
            f"parked in front of a person: {', '.join(parked)}; `amends show` has the question",
            ExitCode.FAILURE,
        )


def _is_still(state: State) -> bool:
    return state in TERMINAL or state in PARKED
