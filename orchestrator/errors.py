"""Everything the engine raises, and everything a step may raise to say how it ended.

Two families that never mix: `AmendsError` is for callers of the engine (a bad definition, a
conflicting start), `StepError` is the language in which a step tells its outcome.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import UUID


class AmendsError(Exception):
    """Root of every error the engine raises to its callers."""


class DefinitionError(AmendsError):
    """A saga definition is wrong; the message names the fix."""


class DefinitionChangedError(AmendsError):
    """The steps of a version changed while sagas of the old shape are still in flight."""


class UnknownDefinitionError(AmendsError):
    """No definition of that name (and version) is registered in this process."""


class PayloadError(AmendsError):
    """The payload cannot be accepted: not the declared shape, too large, too deep, not JSON."""


class CardNumberError(PayloadError):
    """A card number or security code where something would be stored; nothing was written.

    `field` says where, as a path like ``payload.note``; the value is nowhere in the error.
    """

    def __init__(self, field: str) -> None:
        super().__init__(
            f"{field} holds what looks like a card number or security code, which is never stored; "
            "send the gateway's token instead"
        )
        self.field = field


class InvalidKeyError(AmendsError):
    """The key is empty, too long or holds characters that a key may not hold."""


class IdempotencyConflictError(AmendsError):
    """The key was used before with another payload; nothing was started.

    `saga_id` is the saga that holds the key; None for a call outside sagas.
    """

    def __init__(self, message: str, *, saga_id: UUID | None = None) -> None:
        super().__init__(message)
        self.saga_id = saga_id


class ConcurrentStartError(AmendsError):
    """Another transaction started this key and the caller's isolation level hides it.

    The caller's transaction is still usable. Repeat the start in a new transaction.
    """


class SagaLockedError(AmendsError):
    """Another saga is at work on what this one locks, and its definition does not let it queue."""


class ParentNotRunningError(AmendsError):
    """The saga that would wait for this one is taken back, parked or ended; nothing was started."""


class SagaNotFoundError(AmendsError):
    """No saga has that id or key."""

    def __init__(self, message: str, *, saga_id: UUID | None = None) -> None:
        super().__init__(message)
        self.saga_id = saga_id


class StateConflictError(AmendsError):
    """The saga is not, or is no longer, in a state that allows this; nothing was changed."""

    def __init__(self, message: str, *, saga_id: UUID, state: str) -> None:
        super().__init__(message)
        self.saga_id = saga_id
        self.state = state


class SagaCompensationError(AmendsError):
    """The saga could not be taken back whole: it is parked, and a person has to answer."""

    def __init__(self, message: str, *, saga_id: UUID) -> None:
        super().__init__(message)
        self.saga_id = saga_id


class WaitTimeoutError(AmendsError, TimeoutError):
    """The saga did not reach an end within the time the caller was willing to wait."""


class LogUnavailableError(AmendsError):
    """Postgres did not answer; whether the statement took effect is not known."""


class InstallationError(AmendsError):
    """What was asked of the installation cannot be; nothing was changed."""


class HistoryError(AmendsError):
    """A saga's log does not fold to a legal history."""


class NotKeptError(HistoryError):
    """A checkpoint left out what is asked for; the whole log has it."""


class StepError(Exception):
    """How a step says that it did not succeed.

    Args:
        message: what happened, fit for an operator's eyes; never a secret or a card number.
        code: short machine-readable reason, for example ``card_declined``.
        details: JSON-able facts worth keeping in the log.
    """

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.details = dict(details or {})


class Retriable(StepError):  # noqa: N818 - outcomes are named as outcomes, not as errors
    """Nothing happened outside, and the same call may succeed later.

    Args:
        retry_after: not before this long from now, as the other side asked.
        spends_budget: False where the call was not really tried (rate limit, open circuit).
        is_exact: `retry_after` is this caller's own moment, so no jitter is added to it.
    """

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        details: Mapping[str, object] | None = None,
        retry_after: timedelta | None = None,
        spends_budget: bool = True,
        is_exact: bool = False,
    ) -> None:
        super().__init__(message, code=code, details=details)
        self.retry_after = retry_after
        self.spends_budget = spends_budget
        self.is_exact = is_exact


class Terminal(StepError):  # noqa: N818
    """Nothing happened outside, and trying again cannot help (declined, blocked, invalid).

    Args:
        decisive: True where the other side answered *for this idempotency key*. Such an answer
            also settles an earlier attempt of the key whose outcome was unknown; a refusal that
            never reached the other side does not.
    """

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        details: Mapping[str, object] | None = None,
        decisive: bool = False,
    ) -> None:
        super().__init__(message, code=code, details=details)
        self.decisive = decisive


class OutcomeUnknown(StepError):  # noqa: N818
    """The call may have happened; nobody knows yet.

    Args:
        is_kept: the other side keeps this answer for the idempotency key and repeats it (a stored
            500). Where a probe can ask what happened it does so at once, instead of a repetition.
    """

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        details: Mapping[str, object] | None = None,
        is_kept: bool = False,
    ) -> None:
        super().__init__(message, code=code, details=details)
        self.is_kept = is_kept


class Wait(StepError):  # noqa: N818
    """Nothing more to do until a signal arrives or a moment passes; no worker is held.

    The step runs again as a new attempt, with the signal in its context, or None after `until`.
    Without a signal it is a timer.

    Args:
        decisive: True where the other side answered *for this idempotency key*; as of `Terminal`.
            A saga that is taken back does not wait for the end of such a wait: it undoes the step.
        reference: the other side's name for what was begun there and may take effect yet (a payment
            whose payer has to pass a challenge). The attempts that follow find it in their context.
            From then on "it is not there" is never believed, and a saga that is taken back ends
            only when it was undone by that name.
    """

    def __init__(
        self,
        signal: str | None,
        until: datetime,
        message: str = "",
        *,
        decisive: bool = False,
        reference: str | None = None,
    ) -> None:
        super().__init__(message or f"waiting for {signal or until}", code="waiting")
        if until.tzinfo is None:
            raise ValueError("Wait.until must be an aware datetime")
        self.signal = signal
        self.until = until
        self.decisive = decisive
        self.reference = reference
