"""One saga as an operator has it in front of them: read once, at one seq."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.definition import SagaDefinition, Step
from orchestrator.definitions import Definitions
from orchestrator.entries import Direction, Entry, Recorded, SagaParked
from orchestrator.errors import UnknownDefinitionError
from orchestrator.folding import apply
from orchestrator.state import PARKED, TERMINAL, FoldedSaga, State, StepState
from orchestrator.state_machine import Decision, decide
from orchestrator.storage.rows import SagaRow, Snapshot
from orchestrator.troubles import folded
from recovery.operator.refusals import UnknownStepError


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A saga at one seq; `known` is its definition, or None where this process has it not."""

    snapshot: Snapshot
    state: FoldedSaga
    known: SagaDefinition[Any] | None

    @classmethod
    def of(cls, snapshot: Snapshot, definitions: Definitions) -> Case:
        """Fold what was read.

        Raises:
            HistoryError: its log cannot be read by this version.
        """
        return cls(
            snapshot=snapshot,
            state=folded(snapshot),
            known=definitions.by_hash(snapshot.saga.definition_hash),
        )

    @property
    def saga(self) -> SagaRow:
        return self.snapshot.saga

    @property
    def now(self) -> datetime:
        return self.snapshot.now

    @property
    def definition(self) -> SagaDefinition[Any]:
        """The saga's definition.

        Raises:
            UnknownDefinitionError: this process has it not.
        """
        if self.known is None:
            raise UnknownDefinitionError(
                f"{self.saga.definition} v{self.saga.version} is not known here in the shape that "
                "the saga was started with: name its module in AMENDS_SAGAS"
            )
        return self.known

    @property
    def is_parked(self) -> bool:
        return self.state.phase in PARKED

    @property
    def has_ended(self) -> bool:
        return self.state.phase in TERMINAL

    @property
    def parked(self) -> SagaParked | None:
        return self.state.parked if self.is_parked else None

    @property
    def direction(self) -> Direction:
        """Which way the saga goes, or went when it parked: what an answer about a step is for."""
        phase = self.state.parked_from if self.is_parked else self.state.phase
        return Direction.COMPENSATE if phase is State.COMPENSATING else Direction.FORWARD

    def step(self, name: str) -> tuple[Step, StepState]:
        """Return a step's definition and how it stands.

        Raises:
            UnknownStepError: the saga has none of that name.
        """
        names = [each.name for each in self.definition.steps]
        if name not in names:
            raise UnknownStepError(
                f"{self.definition} has no step {name!r}; its steps: {', '.join(names)}"
            )
        return self.definition.step(name), self.state.step(name)

    def after(self, entries: tuple[Entry, ...]) -> Decision:
        """Return what would be decided if these were written now."""
        state = self.state
        for entry in entries:
            state = apply(state, Recorded(seq=state.seq + 1, at=self.now, entry=entry))
        return decide(self.definition, state, self.now, str(self.saga.id))
