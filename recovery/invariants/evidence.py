"""Everything the invariants look at, collected once, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from uuid import UUID

from orchestrator.errors import HistoryError
from orchestrator.folding import replay
from orchestrator.state import FoldedSaga
from orchestrator.storage.histories import SagaHistory
from steps.gateways.sandbox.judge import LedgerRow
from steps.storage.stock import Reservation, StockLevel


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Log, ledger and stock at one moment. For a verdict on money nothing may be moving."""

    sagas: Sequence[SagaHistory]
    movements: Sequence[LedgerRow] = ()
    stock: Sequence[StockLevel] = ()
    reservations: Sequence[Reservation] = ()

    @cached_property
    def states(self) -> Mapping[UUID, FoldedSaga | HistoryError]:
        """What each log folds to, or why it does not; folded once for all invariants."""
        return {each.id: _folded(each) for each in self.sagas}


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A promise that does not hold: which, where, and what was seen instead."""

    invariant: str
    subject: str
    seen: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.subject}: {self.seen}"


def _folded(saga: SagaHistory) -> FoldedSaga | HistoryError:
    try:
        return replay(saga.entries)
    except HistoryError as error:
        return error
    except Exception as error:  # noqa: BLE001 - whatever a damaged entry raises
        return HistoryError(f"{type(error).__name__}: {error}")
