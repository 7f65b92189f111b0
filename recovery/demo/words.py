"""What the checkout's log says, in the words of a shop."""

from __future__ import annotations

from orchestrator.entries import (
    Direction,
    Entry,
    SagaCompensated,
    SagaCompleted,
    SagaParked,
    StepFailed,
    StepSettled,
    StepSucceeded,
    StepUnknown,
    UndoSkipped,
    UnwindingStarted,
)

DONE = {
    "reserve_inventory": "the goods are put aside",
    "screen_fraud": "the order is screened",
    "authorize_payment": "the money is held",
    "screen_authorization": "address and security code are screened",
    "capture_payment": "the money is taken",
    "create_shipment": "the parcel is on its way",
}
UNDONE = {
    "reserve_inventory": "the goods are back on the shelf",
    "authorize_payment": "the hold on the money is let go",
    "capture_payment": "the money is given back",
}
TRYING = {
    "reserve_inventory": "put the goods aside",
    "screen_fraud": "screen the order",
    "authorize_payment": "hold the money",
    "screen_authorization": "screen address and security code",
    "capture_payment": "take the money",
    "create_shipment": "hand over the parcel",
}


def told(entry: Entry) -> str | None:
    """Return the sentence about an entry, or None when it tells the audience nothing."""
    match entry:
        case StepSucceeded(direction=Direction.FORWARD, step=step):
            return DONE.get(step, step)
        case StepSucceeded(direction=Direction.COMPENSATE, step=step, undone=False):
            return f"nothing to undo for: {TRYING.get(step, step)}"
        case StepSucceeded(step=step):
            return f"undone: {UNDONE.get(step, step)}"
        case StepFailed(step=step, error=error):
            return f"could not {TRYING.get(step, step)}: {error.get('message', '')}"
        case StepUnknown(step=step):
            return f"nobody knows whether it happened: {TRYING.get(step, step)}"
        case StepSettled(step=step, landed=True):
            return f"asked and found: {DONE.get(step, step)}"
        case UnwindingStarted():
            return "the order is taken back, step by step in reverse"
        case UndoSkipped(step=step):
            return f"nothing left to do for: {UNDONE.get(step, step)}"
        case SagaCompleted():
            return "COMPLETED"
        case SagaCompensated():
            return "COMPENSATED: as if nothing had happened"
        case SagaParked(question=question):
            return f"PARKED in front of a person: {question}"
        case _:
            return None
