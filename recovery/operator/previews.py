"""What a verb would write, what would follow, and what is known of the money: before it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.actions import RunStep
from orchestrator.coordinator import Coordinator
from orchestrator.entries import Entry, EvidenceAsserted, Json, Outcome, StepFailed, StepProbed
from orchestrator.money_at_risk import MoneyAtRisk, money_at_risk
from orchestrator.state import FoldedSaga, State
from orchestrator.storage.rows import SagaRow
from orchestrator.unwinding import needs_undo
from recovery.operator.cases import Case
from recovery.operator.deciding import Plan
from recovery.operator.evidence import Evidence
from recovery.operator.verbs import Verb


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownEffect:
    """Something a step did outside, as the log tells it, and what undid it."""

    step: str
    reference: str | None
    undone: bool
    undo_reference: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the other side says of a step now.

    Args:
        landed: whether it took effect; None where that cannot be told.
        why: why not, or why nobody could be asked.
    """

    step: str
    landed: bool | None
    reference: str | None = None
    movements: list[dict[str, Json]] | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a verb does to a saga.

    Args:
        saga: the saga as it was read; `saga.seq` is what the verb was decided at.
        writes: what the verb itself writes.
        follows: what is decided because of it, in the same statement.
        state: the saga's state then.
        runs: the attempts that are scheduled then.
        to_undo: the steps that are still to be undone then, in order.
        effects: what the log knows to have happened outside.
        money: what the log says is held, or taken and not given back, by currency; before the verb.
        gateway: what the other side shows now; None where nobody was asked.
        evidence: what it said of the verb, of one that tells of an effect there.
        assertion: what a second person has to confirm, where nothing more is written.
    """

    saga: SagaRow
    verb: str
    step: str | None
    writes: tuple[Entry, ...]
    follows: tuple[Entry, ...]
    state: State
    runs: tuple[RunStep, ...]
    to_undo: tuple[str, ...]
    effects: tuple[KnownEffect, ...]
    money: Mapping[str, MoneyAtRisk]
    gateway: tuple[Answer, ...] | None = None
    evidence: Evidence | None = None
    assertion: EvidenceAsserted | None = None


def preview(case: Case, verb: Verb, plan: Plan, gateway: tuple[Answer, ...] | None) -> Preview:
    """Put together what is known of a verb that is not refused."""
    decision = plan.decision
    stays = State.RESOLVED if plan.closes else case.saga.state
    assertion = plan.entries[0] if isinstance(plan.entries[0], EvidenceAsserted) else None
    return Preview(
        saga=case.saga,
        verb=verb.name,
        step=verb.step,
        writes=plan.entries,
        follows=() if decision is None else decision.entries,
        state=stays if decision is None else decision.visible,
        runs=() if decision is None or plan.hurries else decision.runs,
        to_undo=() if decision is None else _to_undo(case, decision.state),
        effects=effects(case.state),
        money=money_at_risk(case.snapshot.entries),
        gateway=gateway,
        evidence=plan.evidence,
        assertion=assertion,
    )


def effects(state: FoldedSaga) -> tuple[KnownEffect, ...]:
    """Return what the log knows to have happened outside, step by step."""
    return tuple(
        KnownEffect(
            step=name,
            reference=each.reference,
            undone=each.covered,
            undo_reference=each.undo_reference,
        )
        for name, step in state.steps.items()
        for each in step.effects
    )


def ask(coordinator: Coordinator, case: Case, verb: Verb) -> tuple[Answer, ...]:
    """Ask the other side about the verb's step, or else about every step that may have run."""
    return tuple(_asked(coordinator, case, name) for name in _asked_about(case, verb))


def _asked_about(case: Case, verb: Verb) -> Iterator[str]:
    if case.known is None:
        return
    for each in case.known.steps:
        track = case.state.step(each.name).forward
        is_outside = not (each.transactional or each.read_only)
        if verb.step in (None, each.name) and is_outside and track.attempts > track.released:
            yield each.name


def _asked(coordinator: Coordinator, case: Case, name: str) -> Answer:
    if case.definition.step(name).probe is None:
        return Answer(step=name, landed=None, why="it has no probe: ask the other side yourself")
    return _answer(name, coordinator.ask(case.snapshot, name))


def _answer(name: str, outcome: Outcome) -> Answer:
    match outcome:
        case StepProbed():
            return Answer(
                step=name,
                landed=outcome.landed,
                reference=outcome.reference,
                movements=outcome.movements,
                why=outcome.why,
            )
        case StepFailed(error=error):
            return Answer(step=name, landed=None, why=f"no answer: {_text(error)}")
        case _:
            return Answer(step=name, landed=None, why="no answer")


def _text(error: Mapping[str, Any]) -> str:
    return f"{error.get('type')}: {error.get('message')}"


def _to_undo(case: Case, state: FoldedSaga) -> tuple[str, ...]:
    if state.phase not in (State.COMPENSATING, State.FAILED_COMPENSATION):
        return ()
    return tuple(each.name for each in reversed(case.definition.steps) if needs_undo(state, each))
