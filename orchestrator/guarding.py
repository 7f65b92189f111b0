"""What guards every call to one outside party: how many, and whether at all just now.

Pure data, declared on a step (``step(..., calls=POLICY)``). All steps that name the same policy
share its rate and its circuit, in every worker. They are asked before an attempt is claimed: one
that had better wait is put off as a row with a due time, nothing of it is logged, and no worker
waits for it. The call itself passes them again, in the order rate, circuit, then one call with its
deadline: meanwhile others may have been faster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Protocol, TypeVar

from orchestrator.errors import DefinitionError, OutcomeUnknown, Retriable, Terminal

T = TypeVar("T")


class Verdict(StrEnum):
    """What the end of a call says of the other side."""

    ANSWERED = "answered"
    """It is up, whatever it answered: a decline is an answer."""

    OUTAGE = "outage"
    """It is down, too slow, or broken."""

    NOTHING = "nothing"
    """The call says nothing of it: it was never sent, or failed on our side."""


def judged(error: BaseException) -> Verdict:
    """The verdict on errors of the engine and of Python; adapters have tables of their own."""
    match error:
        case OutcomeUnknown(code="send_by_passed"):
            return Verdict.NOTHING  # an earlier call of the attempt was sent, this one was not
        case OutcomeUnknown() | TimeoutError() | ConnectionError():
            return Verdict.OUTAGE
        case Terminal():
            return Verdict.ANSWERED
        case _:
            return Verdict.NOTHING


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `limit` requests in any window that is `per` long."""

    limit: int
    per: timedelta = field(default=timedelta(seconds=1), kw_only=True)

    def __post_init__(self) -> None:
        if self.limit < 1 or self.per <= timedelta(0):
            raise DefinitionError(f"Rate({self.limit}, per={self.per}): both must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """When a circuit opens, because the other side is out, and when one call may try again.

    Args:
        failures: the circuit opens when calls of so many *different* keys met an outage ...
        within: ... in a window of this length ...
        share: ... and they were at least this share of all calls in it, 0 to 1.
        open_for: how long nothing is let through then; after it exactly one call is, the trial.
        judge: what an exception says of the other side.
    """

    failures: int = 10
    within: timedelta = timedelta(seconds=10)
    share: float = 0.5
    open_for: timedelta = timedelta(seconds=5)
    judge: Callable[[BaseException], Verdict] = judged

    def __post_init__(self) -> None:
        if self.failures < 1 or not 0 <= self.share <= 1:
            raise DefinitionError("Breaker needs failures of 1 or more, and a share from 0 to 1")
        if self.within <= timedelta(0) or self.open_for <= timedelta(0):
            raise DefinitionError("Breaker needs a positive within and open_for")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPolicy:
    """What the calls to one outside party must pass.

    Args:
        name: of the other side; policies of one name share what they count.
        rate: None: not limited by us.
        breaker: None: never stopped.
    """

    name: str
    rate: Rate | None = None
    breaker: Breaker | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request that wants to be let through.

    Args:
        key: the same for all attempts of a step and direction.
        attempt: which of them it belongs to.
        number: the how-manieth request of its attempt it is, from 1.
        takes: the longest it may take.
    """

    key: str
    attempt: int
    number: int
    takes: timedelta


def key_of_calls(saga_id: object, step: str, direction: str) -> str:
    """Return what the requests of all attempts of a step and direction have in common."""
    return f"{saga_id}/{step}/{direction}"


class NotLetThrough(Retriable):
    """The call was not made: ``rate_reached`` or ``circuit_open``. It spends no budget."""

    def __init__(self, message: str, *, code: str, retry_after: timedelta, is_exact: bool) -> None:
        super().__init__(
            message,
            code=code,
            retry_after=retry_after,
            spends_budget=False,
            is_exact=is_exact,
        )


class Guards(Protocol):
    """Lets calls through, or not; workers bring one that all of them share."""

    def call(self, policy: CallPolicy, request: Request, send: Callable[[], T]) -> T:
        """Return what `send` returns, if it may be called now.

        Raises:
            NotLetThrough: `send` was not called.
        """

    def pause(self, policy: CallPolicy, key: str) -> timedelta | None:
        """Return how long an attempt had better wait that is not claimed yet; None: not at all."""


class Unguarded:
    """Lets everything through: where no server is shared (tests, a worker without Redis)."""

    def call(self, policy: CallPolicy, request: Request, send: Callable[[], T]) -> T:  # noqa: ARG002
        return send()

    def pause(self, policy: CallPolicy, key: str) -> timedelta | None:  # noqa: ARG002
        return None
