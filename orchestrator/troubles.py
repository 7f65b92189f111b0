"""One saga's trouble is its own: what was raised while it was handled, and setting it aside.

Whatever is raised while one saga is read, decided or written is caught where that saga is handled
(`orchestrator.mover`, and for an attempt that this process runs `orchestrator.claiming` and
`orchestrator.recording`). It is parked with a question, so somebody is told, and looked at again
ever more rarely, so that it goes on by itself once its trouble is mended. What is wrong with the
database or with this process's rights is nobody's own trouble and is not caught.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from pydantic import ValidationError

from orchestrator import outcomes
from orchestrator.entries import Recorded, log_format
from orchestrator.errors import HistoryError, InstallationError, LogUnavailableError
from orchestrator.folding import replay
from orchestrator.instrumentation import emit
from orchestrator.state import PAYLOAD, UNDECIDABLE, UNREADABLE, FoldedSaga
from orchestrator.storage.complaints import complaint_of
from orchestrator.storage.database import Moved
from orchestrator.storage.rows import Snapshot
from orchestrator.storage.set_aside import SetAside, is_log_ahead

MAX_ERROR = 300

QUESTIONS = {
    UNREADABLE: "Its log cannot be read: {error}. `amends repair` shows what stands in it.",
    UNDECIDABLE: "What follows cannot be decided: {error}. It goes on once that is mended.",
    PAYLOAD: "Its payload does not fit the definition's model: {error}. It goes on once it does.",
}


class UnreadableLogError(HistoryError):
    """The log of this saga does not fold, or somebody wrote into it beside the engine."""


class NewerLogError(HistoryError):
    """A newer version of Amends may have written this log: the saga is left to that."""


class SetAsideError(HistoryError):
    """The saga was set aside, as nothing can be done with it as it is."""


class Troubles:
    """Sets sagas aside."""

    def __init__(self, aside: SetAside) -> None:
        self._aside = aside

    def set_aside(
        self, saga_id: UUID, error: Exception, reason: str | None = None
    ) -> SetAsideError:
        """Park the saga because of `error`, tell of it once, and return what to raise.

        Raises:
            LogUnavailableError: Postgres does not answer.
        """
        reason = reason or reason_of(error)
        text = brief(error)
        question = QUESTIONS[reason].format(error=text)
        try:
            aside = self._aside.set_aside(saga_id, reason=reason, question=question, error=text)
        except LogUnavailableError:
            raise
        except Exception as second:  # noqa: BLE001 - whoever looks at it next tries again
            if not isinstance(second, Moved) and complaint_of(second) is None:
                emit("saga.not_set_aside", saga_id=saga_id, error=brief(second))
            aside = None
        if aside is not None and aside.is_new:
            emit(
                "saga.set_aside",
                saga_id=saga_id,
                saga=aside.definition,
                key=aside.key,
                reason=reason,
                error=text,
            )
        return SetAsideError(question)


def folded(snapshot: Snapshot) -> FoldedSaga:
    """Return the fold of a saga's log, as it was read.

    Raises:
        NewerLogError: only a newer version can tell what it says.
        UnreadableLogError: it is damaged, or holds entries that the saga's row does not know.
    """
    if snapshot.saga.log_format > log_format():
        raise NewerLogError(
            f"a newer version wrote its log (form {snapshot.saga.log_format}; this one reads "
            f"{log_format()}): upgrade this process"
        )
    state = fold_of(snapshot.entries, snapshot.base)
    if state.seq != snapshot.saga.seq:
        raise UnreadableLogError(
            f"it ends at seq {state.seq} and the saga's row says {snapshot.saga.seq}: somebody "
            "wrote into it beside the engine"
        )
    return state


def fold_of(entries: Sequence[Recorded], base: FoldedSaga | None = None) -> FoldedSaga:
    """Return the fold of a log of our form, or of what follows `base`.

    Raises:
        UnreadableLogError: whatever a damaged entry raises.
    """
    try:
        return replay(entries, base)
    except Exception as error:
        raise UnreadableLogError(brief(error)) from error


def is_its_own(error: Exception) -> bool:
    """Whether `error` is the trouble of the saga at hand, not of the database or of our rights."""
    others = Moved | MemoryError | InstallationError
    return not isinstance(error, others) and complaint_of(error) is None


def reason_of(error: Exception) -> str:
    """Return the reason to park for."""
    is_unreadable = isinstance(error, UnreadableLogError) or is_log_ahead(error)
    return UNREADABLE if is_unreadable else UNDECIDABLE


def brief(error: BaseException) -> str:
    """Return one line about an error that may be stored and shown."""
    if isinstance(error, HistoryError):
        return outcomes.printable(str(error))[:MAX_ERROR]
    if is_log_ahead(error):
        return "somebody wrote into its log beside the engine"
    if isinstance(error, ValidationError):
        found = error.errors(include_input=False, include_url=False, include_context=False)
        places = {".".join(map(str, each["loc"])): each["msg"] for each in found}
        text = "; ".join(f"{place}: {why}" for place, why in places.items())
        return outcomes.printable(text)[:MAX_ERROR]
    told = outcomes.described(error)
    return f"{told['type']}: {' '.join(str(told['message']).split())}"[:MAX_ERROR]
