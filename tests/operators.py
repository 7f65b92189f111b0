"""What tests of operator verbs share: a case made of a history, and somebody who acts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from orchestrator.definition import SagaDefinition
from orchestrator.definitions import Definitions
from orchestrator.entries import StepSucceeded
from orchestrator.state import State
from orchestrator.storage.rows import SagaRow, Snapshot
from recovery.operator.cases import Case
from recovery.operator.deciding import NOT_NEEDED, Plan, decided
from recovery.operator.evidence import Evidence
from recovery.operator.identity import Identity, IdentityKind
from recovery.operator.verbs import (
    Abandon,
    By,
    MarkDone,
    MarkNotDone,
    Probe,
    Resolve,
    Retry,
    Skip,
    Verb,
)
from tests.histories import COMPENSATE, PROBE, History, doing, nothing, saga

SAGA_ID = UUID(int=7)


def person(name: str, reason: str = "called the bank") -> By:
    """Somebody whom the operating system knows by that name."""
    return By(actor=name, reason=reason, identity=Identity(kind=IdentityKind.OS_USER, name=name))


ADA = By(actor="ada", reason="called the bank")

RESERVE = doing("reserve")
PAY = doing("pay", lag=timedelta(seconds=10))
SHIP = doing("ship", pivot=True)
MAIL = doing("mail", retriable=True)
SHOP = saga(RESERVE, PAY, SHIP)
LONG = saga(RESERVE, PAY, SHIP, MAIL)
ASKABLE = saga(RESERVE, doing("pay", probe=nothing, key_life=timedelta(0)), SHIP)
EVERY: list[Verb] = [
    Retry(),
    Probe(step="pay"),
    MarkDone(step="pay", reference="pay-1"),
    MarkNotDone(step="pay"),
    Skip(step="pay"),
    Resolve(),
    Abandon(),
]
"""Each verb that leaves a saga under its version, said of `pay`."""

EARNED = [{"kind": "capture", "amount_minor": 1990, "currency": "EUR", "reference": "pay-1"}]


def case_of(history: History, *others: SagaDefinition[Any], known: bool = True) -> Case:
    """The saga of a history as an operator reads it now."""
    definition = history.definition
    saga = SagaRow(
        id=SAGA_ID,
        definition=definition.name,
        version=definition.version,
        definition_hash=definition.hash,
        key="order-1",
        fingerprint="f",
        state=history.visible,
        seq=history.log[-1].seq,
    )
    snapshot = Snapshot(saga=saga, entries=list(history.log), attempts=[], now=history.now)
    return Case.of(snapshot, Definitions([definition, *others] if known else others))


def plan(history: History, verb: Verb, by: By = ADA, evidence: Evidence = NOT_NEEDED) -> Plan:
    """What the verb writes where what it tells need not be looked up, or `evidence` was."""
    return decided(case_of(history), verb, by, evidence=evidence)


def after(history: History, verb: Verb) -> History:
    """The saga after the verb."""
    return history.records(*plan(history, verb).entries)


def kinds(found: Plan) -> list[str]:
    return [type(each).__name__ for each in found.entries]


def of_an_unknown() -> History:
    """Nobody knows what `pay` did, long after the last try; its key may still be used."""
    history = History(SHOP).succeeds("reserve")
    for _ in range(3):
        history.unknown("pay")
    assert history.visible is State.STUCK
    return history.later(hours=1)


def of_an_undo(reference: str | None = "pay-1") -> History:
    """The money cannot be given back; everything else is undone."""
    history = History(SHOP).succeeds("reserve").claims("pay")
    earned = StepSucceeded(
        step="pay", direction="forward", attempt=1, reference=reference, movements=EARNED
    )
    history.records(earned).declined("ship").declined("pay", COMPENSATE).undoes("reserve")
    assert history.visible is State.FAILED_COMPENSATION
    return history.later(hours=1)


def past_the_pivot() -> History:
    return History(LONG).succeeds("reserve", "pay", "ship").declined("mail").later(hours=1)


def unanswered() -> History:
    history = History(ASKABLE).succeeds("reserve").unknown("pay")
    for _ in range(10):
        history.fails("pay", PROBE)
    assert history.visible is State.STUCK
    return history.later(hours=1)
