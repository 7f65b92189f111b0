"""Collects the evidence and passes every verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import sqlalchemy

from orchestrator.definitions import Definitions
from orchestrator.state import State
from orchestrator.storage.database import Database
from orchestrator.storage.histories import Histories
from recovery.invariants.effects import check_effects, check_money, check_stock
from recovery.invariants.evidence import Evidence, Violation
from recovery.invariants.history import check_histories
from steps.gateways.sandbox.judge import SandboxJudge
from steps.storage import stock


def collect(engine: sqlalchemy.Engine, judge: SandboxJudge | None) -> Evidence:
    """Read all sagas with their logs, the stock, and the gateway's ledger if there is a judge."""
    with engine.connect() as connection:
        levels = stock.levels(connection)
        reservations = stock.reservations(connection)
    return Evidence(
        sagas=list(Histories(Database(engine)).all()),
        movements=list(judge.movements()) if judge is not None else (),
        stock=levels,
        reservations=reservations,
    )


def check(
    evidence: Evidence,
    definitions: Definitions,
    *,
    at_rest: bool = True,
    at_least: Mapping[State, int] | None = None,
) -> list[Violation]:
    """Return every promise that does not hold.

    Args:
        evidence: what `collect` read.
        definitions: the definitions of the sagas in it.
        at_rest: faults are healed and nothing moves any more; then every saga must have ended.
        at_least: how many sagas must have reached which state, so that an empty run is no pass.
    """
    found = list(check_histories(evidence, definitions, at_rest=at_rest))
    if at_rest:
        found += [*check_effects(evidence), *check_money(evidence), *check_stock(evidence)]
    reached = Counter(each.state for each in evidence.sagas)
    for state, wanted in (at_least or {}).items():
        if reached[state] < wanted:
            found.append(
                Violation(
                    invariant="not vacuous",
                    subject=state,
                    seen=f"{reached[state]} sagas, expected at least {wanted}",
                )
            )
    return found
