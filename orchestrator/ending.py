"""Whether a saga that has nothing left to do may end: its definition's closing check says.

A saga that went on by the unverified word of two persons never ends as completed or compensated:
when the check would allow that if their word were true, it is resolved, and names them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from orchestrator.actions import AwaitClosing, CloseByWord, Compensated, Complete, Park
from orchestrator.books import books, movements
from orchestrator.closing import Close, Closing, HoldOn, Stop
from orchestrator.definition import SagaDefinition
from orchestrator.redaction.text import redact
from orchestrator.state import FoldedSaga, State

MAX_QUESTION = 1000

CLOSING_CHECK = "closing_check"
"""Why a saga is parked whose books do not allow its end."""


def ending(
    definition: SagaDefinition[Any], state: FoldedSaga, now: datetime, end: Complete | Compensated
) -> Complete | Compensated | CloseByWord | AwaitClosing | Park:
    """Return `end`, or what the closing check wants instead."""
    completes = isinstance(end, Complete)
    answer = checked(definition, state, now, completes=completes)
    match answer:
        case Close() if state.by_word_of:
            return CloseByWord(persons=state.by_word_of)
        case Close():
            return end
        case HoldOn(until=until) if until > now:
            return AwaitClosing(until=until)
        case HoldOn(until=until):
            return _park(state, f"What was to be settled by {until:%Y-%m-%d %H:%M} UTC is not.")
        case Stop(question=question):
            return _park(state, question)


def _park(state: FoldedSaga, question: str) -> Park:
    parked = State.FAILED_COMPENSATION if state.phase is State.COMPENSATING else State.STUCK
    return Park(state=parked, reason=CLOSING_CHECK, question=question, steps=())


def checked(
    definition: SagaDefinition[Any], state: FoldedSaga, now: datetime, *, completes: bool
) -> Close | HoldOn | Stop:
    """Return what the definition's closing check says of the saga as it stands.

    It is somebody else's code: whatever it raises, or returns instead of an answer, stops the saga
    in front of an operator, and is asked again whenever the saga is looked at. It sees what two
    persons vouch for only in a saga that can end no better than resolved.
    """
    words = bool(state.by_word_of)
    closing = Closing(
        outcome=(State.COMPLETED if completes else State.COMPENSATED).value,
        payload=state.payload,
        skipped=frozenset(name for name, step in state.steps.items() if step.skipped),
        books=books(state.money, words=words),
        movements=movements(state.money, words=words),
        now=now,
    )
    try:
        answer: object = definition.closing(closing)
    except Exception as error:  # noqa: BLE001 - see above
        return Stop(question=f"The closing check raised {_told(error)}. Is the saga in order?")
    match answer:
        case Close():
            return answer
        case HoldOn(until=datetime() as until) if until.tzinfo is not None:
            return answer
        case Stop(question=str()):
            return Stop(question=_printable(answer.question))
        case _:
            return Stop(
                question=f"The closing check returned {type(answer).__name__}, which is no answer: "
                "Close, HoldOn until an aware moment, or Stop. Is the saga in order?"
            )


def _told(error: Exception) -> str:
    try:
        return _printable(f"{type(error).__name__}: {error}")
    except Exception:  # noqa: BLE001 - an error that cannot be printed is one all the same
        return type(error).__name__


def _printable(text: str) -> str:
    """Text that may be stored, without card data."""
    shown = redact(text).replace("\x00", "\\x00").encode(errors="replace").decode()
    return shown[:MAX_QUESTION]
