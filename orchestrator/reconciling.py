"""From facts about a saga to the one write that adds them, decides, and makes the rows agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.announcing import error_of
from orchestrator.definition import SagaDefinition
from orchestrator.entries import Entry, Recorded
from orchestrator.folding import apply
from orchestrator.planning import attempt_id, due_in, next_look, scheduled, tells
from orchestrator.state import PARKED, FoldedSaga
from orchestrator.state_machine import Decision, decide
from orchestrator.storage.rows import Advance, Closing, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What to add to the log before deciding; `closing` names the attempt it ends."""

    entries: Sequence[Entry] = ()
    closing: Closing | None = None


def reconciled(
    definition: SagaDefinition[Any],
    snapshot: Snapshot,
    state: FoldedSaga,
    facts: Facts,
    *,
    will_ring: bool,
    hurries: bool = False,
) -> tuple[Advance, Decision]:
    """Return the write that adds `facts`, what they lead to, and makes the attempt rows agree.

    Args:
        hurries: no attempt waits for its pause any more.
    """
    saga_id = snapshot.saga.id
    for entry in facts.entries:
        state = apply(state, Recorded(seq=state.seq + 1, at=snapshot.now, entry=entry))
    decision = decide(definition, state, snapshot.now, str(saga_id))
    unclaimed = {each.id for each in snapshot.attempts if each.token is None}
    runs = [replace(run, not_before=None) if hurries else run for run in decision.runs]
    wanted = {attempt_id(saga_id, run): run for run in runs}
    entries = [*facts.entries, *decision.entries]
    looks = 0 if entries else snapshot.saga.looks
    due = due_in(decision, snapshot.now, snapshot.saga.state, looks)
    change = Advance(
        saga_id=saga_id,
        seq=snapshot.saga.seq,
        entries=entries,
        state=decision.visible,
        due_in_seconds=next_look(decision, snapshot.now) if due is None else due,
        closing=facts.closing,
        schedule=[
            scheduled(
                definition,
                run,
                snapshot.now,
                will_ring=will_ring and (hurries or attempt not in unclaimed),
            )
            for attempt, run in wanted.items()
        ],
        last_error=next((text for each in entries if (text := error_of(each))), None),
        looked=not entries and decision.visible in PARKED,
        tells=tells(snapshot.saga, decision.visible),
        hurries=hurries,
    )
    return change, decision
