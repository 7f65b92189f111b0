"""What a step sees of its saga, and what it may hand back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast
from uuid import UUID

import structlog
from pydantic import BaseModel, TypeAdapter

from orchestrator.entries import Json
from orchestrator.errors import OutcomeUnknown, Retriable, Terminal
from orchestrator.guarding import CallPolicy, Guards, NotLetThrough, Request, key_of_calls
from orchestrator.state import RecordedEffect

if TYPE_CHECKING:
    from sqlalchemy import Connection

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """Money that a step moved: `kind` is authorize, capture, void or refund.

    `pending`: the other side has accepted it and not settled it yet.
    """

    kind: str
    amount_minor: int
    currency: str
    reference: str | None = None
    pending: bool = False

    def as_json(self) -> dict[str, Json]:
        """Return it as the log keeps it."""
        told: dict[str, Json] = {
            "kind": self.kind,
            "amount_minor": self.amount_minor,
            "currency": self.currency,
            "reference": self.reference,
        }
        return {**told, "pending": True} if self.pending else told


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a step did outside: its result, the other side's reference, and the money it moved."""

    value: Any = None
    reference: str | None = None
    movements: Sequence[Movement] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingThere:
    """A compensation's answer that there was nothing to undo, and that this cannot change.

    Where it only *found* nothing, and the other side may be late to show what it did, the answer is
    `NotLanded`.
    """


@dataclass(frozen=True, slots=True)
class NotLanded:
    """An answer of probes, compensations and lookups: asked for, and not there.

    It is believed when given twice, by attempts that began after all of the step must have arrived
    and be shown. A compensation is asked again until then, and has then found nothing to undo.

    Args:
        why: in words, for the log.
        lag: how long the other side may not show what it has done already, if not the step's `lag`;
            only a compensation may know better.
    """

    why: str | None = None
    lag: timedelta | None = None


@dataclass(frozen=True, slots=True)
class CannotTell:
    """An answer of probes and lookups: the other side could not say."""

    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How something stands, by one side: what a lookup found, or what the saga says it must be.

    Args:
        order: our name for the business matter (an order, a booking), as the other side keeps it.
        amount_minor, currency: of what the step, or its undo, moves; None where it moves no money.
        status: in one word of the step's own: ``held``, ``captured``, ``refunded``.
        reference: what it hangs on, where only one will do: the payment that was authorized.
    """

    order: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    status: str | None = None
    reference: str | None = None

    def __str__(self) -> str:
        money = None if self.amount_minor is None else f"{self.amount_minor} {self.currency}"
        order = None if self.order is None else f"order {self.order}"
        return ", ".join(each for each in (order, money, self.status, self.reference) if each)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A lookup's answer: what the other side has under a reference.

    It fits when both sides are equal. `None` where nothing is told is equal to nothing but `None`.

    Args:
        theirs: how it stands there.
        ours: how it must stand there, were the step (or its undo, when that is asked for) done.
        effect: what the step, or its undo, would have returned: the log's words for it.
        untouched: it is there, and nothing of what is asked for has happened to it: a capture of
            which nothing was given back.
    """

    theirs: Standing
    ours: Standing
    effect: Effect = Effect()
    untouched: bool = False

    @property
    def fits(self) -> bool:
        return self.theirs == self.ours and not self.untouched


@dataclass(slots=True, kw_only=True)
class Lease:
    """The time-limited right to run one attempt, on this process's monotonic clock.

    `valid_until` moves when the lease is extended; `ends_at` is the attempt's timeout and never
    moves. `is_running`: the step's function has been called and has not returned.
    """

    valid_until: float
    ends_at: float
    is_running: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Where a step's outside parts (a gateway, a carrier) come from, by the protocol they meet."""

    factories: Mapping[type, Callable[[], Any]] = field(default_factory=dict)
    _built: dict[type, Any] = field(default_factory=dict, repr=False)

    def also(self, protocol: type[R], factory: Callable[[], R]) -> Resources:
        """Return these, and one more unless it is there already; what is built is built once."""
        return Resources(factories={protocol: factory, **self.factories}, _built=self._built)

    def get(self, protocol: type[R]) -> R:
        """Return the process's instance, built at the first use.

        Raises:
            Retriable: nothing is configured for it here; nothing was sent.
        """
        if protocol not in self._built:
            factory = self.factories.get(protocol)
            if factory is None:
                raise Retriable(
                    f"no {protocol.__name__} is configured in this worker", code="not_configured"
                )
            self._built.setdefault(protocol, factory())
        return cast("R", self._built[protocol])


@dataclass(slots=True, kw_only=True)
class StepContext(Generic[P]):
    """One attempt, seen from inside the step.

    Args:
        saga_id: the saga.
        saga_key: the business key it was started with.
        step: name of the step.
        direction: ``forward``, ``compensate``, ``probe`` or ``probe_undo``.
        attempt: number of this try, from 1; never part of an idempotency key.
        idempotency_key: the same for all attempts of this step; pass it to the other side. A probe
            gets that of the attempts it asks about.
        step_key: the key under which the step itself acts, whichever direction runs; for a
            compensation and its probe, that under which `effect` was done.
        payload: the validated payload.
        results: what earlier steps returned, by step name, as JSON.
        effect: for a compensation and its probe, the effect to undo, or None when none is known.
        connection: for a transactional step, the engine's connection; neither commit nor roll back.
        signal: payload of the signal that ended this step's wait, or None at its deadline.
        waited: a wait of this step is over, by its signal or by its deadline.
        signalled: it was the signal, which may have no payload.
        reference: what the latest wait under this key was told of, by the other side's name: look
            for it by that. An undo finds it in `effect`, which `is_open` then.
        now: the database's time when the attempt began.
        calls: what the step's calls to the other side must pass; None: nothing.
        asked_before: how often probes and undos of the step were already told that nothing is
            there. Before it is believed, ask in a way that no index lags behind, if there is one.
    """

    saga_id: UUID
    definition: str
    saga_key: str
    step: str
    direction: str
    attempt: int
    idempotency_key: str
    step_key: str
    payload: P
    results: Mapping[str, Json]
    effect: RecordedEffect | None
    signal: Json
    now: datetime
    resources: Resources
    lease: Lease
    waited: bool = False
    signalled: bool = False
    reference: str | None = None
    asked_before: int = 0
    calls: CallPolicy | None = None
    connection: Connection | None = None
    _sent: bool = False
    _requests: int = 0
    _may_have_acted: bool = False

    def result(self, step: str, kind: type[R]) -> R:
        """Return what an earlier step returned, as `kind` (a pydantic model, a dataclass, ...).

        Raises:
            KeyError: the step was skipped or has not run.
            pydantic.ValidationError: it returned something else.
        """
        return TypeAdapter(kind).validate_python(self.results[step])

    def resource(self, protocol: type[R]) -> R:
        """Return the outside part that meets `protocol`, for example the payment gateway."""
        return self.resources.get(protocol)

    def call(self, send: Callable[[float], T], limit: timedelta) -> T:
        """Return what ``send(seconds)`` returns: one call to the other side, with an effect.

        It passes the step's `calls` first (the rate, then the circuit); the seconds that it may
        take, at most `limit`, are decided after that, right before it is sent.

        Raises:
            NotLetThrough: the rate is reached or the circuit is open; nothing was sent, and the
                attempt comes due again when there may be room.
            OutcomeUnknown: the same, after this attempt had sent something that may have acted.
            StepError: as `call_timeout`, or as `send` raised it.
        """

        def sending() -> T:
            seconds = self.call_timeout(limit)
            acted_before, self._may_have_acted = self._may_have_acted, True
            try:
                return send(seconds)
            except (Retriable, Terminal):
                self._may_have_acted = acted_before
                raise

        return self._let_through(sending, limit)

    def ask(self, send: Callable[[float], T], limit: timedelta) -> T:
        """As `call`, for a question: it leaves nothing behind, whatever becomes of it."""
        return self._let_through(lambda: send(self.call_timeout(limit)), limit)

    def _let_through(self, sending: Callable[[], T], limit: timedelta) -> T:
        if self.calls is None:
            return sending()
        self._requests += 1
        request = Request(
            key=key_of_calls(self.saga_id, self.step, self.direction),
            attempt=self.attempt,
            number=self._requests,
            takes=limit,
        )
        guards = self.resource(Guards)  # type: ignore[type-abstract]
        try:
            return guards.call(self.calls, request, sending)
        except NotLetThrough as error:
            if self._may_have_acted:
                raise OutcomeUnknown(error.message, code=error.code) from error
            raise

    def call_timeout(self, limit: timedelta) -> float:
        """Return the seconds that one call may take; ask right before sending it.

        Raises:
            Retriable: the send-by has passed (the lease is over, or no `limit` fits before the
                attempt's timeout), and this attempt has sent nothing: no effect.
            OutcomeUnknown: the send-by has passed after this attempt had sent something.
        """
        seconds = limit.total_seconds()
        now = time.monotonic()
        if now < self.lease.valid_until and now + seconds <= self.lease.ends_at:
            self._sent = True
            return seconds
        message = "send-by passed: this attempt may not send any more"
        if self._sent:
            raise OutcomeUnknown(message, code="send_by_passed")
        raise Retriable(message, code="send_by_passed")

    @property
    def logger(self) -> structlog.typing.FilteringBoundLogger:
        """A logger bound to the saga, the step and the attempt."""
        return cast(
            "structlog.typing.FilteringBoundLogger",
            structlog.get_logger("amends.step").bind(
                saga_id=str(self.saga_id),
                saga=self.definition,
                step=self.step,
                direction=self.direction,
                attempt=self.attempt,
            ),
        )
