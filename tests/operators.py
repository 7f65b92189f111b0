"""What tests of operator verbs share: a case made of a history, and somebody who acts."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from orchestrator.definition import SagaDefinition
from orchestrator.definitions import Definitions
from orchestrator.storage.rows import SagaRow, Snapshot
from recovery.operator.cases import Case
from recovery.operator.verbs import By
from tests.histories import History

SAGA_ID = UUID(int=7)
ADA = By(actor="ada", reason="called the bank")


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
