"""The other side of simulated sagas: a payment gateway, and one that keeps deeds under their keys.

Both answer a repeated request under its key as they did the first time. What they hold, and not
what they answered, is the truth that a saga's end is judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from random import Random
from typing import Any, TypeVar

from orchestrator.context import CannotTell, Effect, NothingThere, NotLanded, StepContext
from orchestrator.errors import OutcomeUnknown, Terminal, Wait
from steps.gateways.errors import (
    AuthenticationRequiredError,
    CardDeclinedError,
    GatewayServerError,
    GatewayTimeoutError,
    LookupFailedError,
    NetworkError,
    PaymentNotFoundError,
    PaymentStateError,
    RateLimitedError,
)
from steps.gateways.payment import (
    CaptureRequest,
    ChargeRequest,
    ChargeResult,
    ChargeStatus,
    GatewayCapabilities,
    MovementKind,
    RefundRequest,
    RefundResult,
    RefundStatus,
)
from steps.money import Money

T = TypeVar("T")

HALF = 0.5
HELD = frozenset({ChargeStatus.AUTHORIZED, ChargeStatus.CAPTURED})


@dataclass(slots=True)
class Trouble:
    """Which faults there still are, and what was done that must never be.

    Args:
        rate: how often something happens, whatever it is.
        beyond: more happens than the contract allows, too.
        likely: how often these happen, besides.
    """

    rng: Random
    rate: float
    beyond: bool = False
    likely: Mapping[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    wrongs: list[str] = field(default_factory=list)

    def strikes(self, *kinds: str) -> str | None:
        """Return the fault that happens now, or None."""
        kind = self._likely(kinds)
        if kind is None and self.rng.random() < self.rate:
            kind = self.rng.choice(kinds)
        if kind is not None:
            self.counts[kind] = self.counts.get(kind, 0) + 1
        return kind

    def _likely(self, kinds: Sequence[str]) -> str | None:
        if not self.rate or not self.likely:
            return None
        return next((e for e in kinds if self.rng.random() < self.likely.get(e, 0.0)), None)

    def lag(self, most: timedelta) -> timedelta:
        """Return how long a lookup does not show what was just done."""
        if self.strikes("lookup_lags") is None:
            return timedelta(0)
        if self.beyond and self.rng.random() < 0.5:
            self.counts["lookup_lags_beyond"] = self.counts.get("lookup_lags_beyond", 0) + 1
            return timedelta(seconds=self.rng.uniform(60, 7200))
        return most * self.rng.random()


@dataclass(slots=True)
class Kept:
    """What a key answers from now on."""

    answer: Callable[[], Any]


class OtherSide:
    """Common to both: the clock, the faults, what keys answer, and who is told of news."""

    def __init__(self, trouble: Trouble, clock: Callable[[], datetime]) -> None:
        self.trouble = trouble
        self.now = clock
        self.news: list[str] = []
        self.cut_until: dict[str, datetime] = {}
        self.hidden: set[str] = set()
        self.whose = "us"
        self.made_by: dict[str, str] = {}
        self.requested: set[str] = set()
        self.acted: set[str] = set()
        self.settled: set[str] = set()
        self._kept: dict[str, Kept] = {}

    def asked(self, key: str, act: Callable[[], T], *, may_keep_failure: bool = True) -> T:
        """Answer a request for an effect: once per key, whatever becomes of the answer."""
        self.requested.add(key)
        if self.now() < self.cut_until.get(key, self.now()):
            raise GatewayTimeoutError("the request is under way")
        if key in self.hidden and key not in self._kept:
            self._acts(key, act)
            self._kept[key] = Kept(_raising(_kept_500))
        fault = self.trouble.strikes(
            "refused", "rate_limited", "request_lost", "answer_lost", "kept_500", "kept_500_after"
        )
        if fault == "refused":
            raise NetworkError("connection refused")
        if fault == "rate_limited":
            raise RateLimitedError(retry_after=timedelta(seconds=1))
        if fault == "request_lost":
            raise GatewayTimeoutError("the request was lost")
        keeps_500 = fault in ("kept_500", "kept_500_after") and may_keep_failure
        if keeps_500 and key not in self._kept:
            if fault == "kept_500_after":
                self._acts(key, act)
            self._kept[key] = Kept(_raising(_kept_500))
        if key not in self._kept:
            self._kept[key] = Kept(self._acts(key, act))
        answer: T
        if fault == "answer_lost":
            raise GatewayTimeoutError("the answer was lost")
        answer = self._kept[key].answer()
        return answer

    def _acts(self, key: str, act: Callable[[], T]) -> Callable[[], T]:
        """Do it now, and return what gives the same answer, or error, each time."""
        try:
            answer = act()
        except (Terminal, OutcomeUnknown) as refusal:
            kept = refusal
            return _raising(lambda: kept)
        except Wait as wait:
            begun = wait
            self._has_acted(key)
            return _raising(lambda: begun)
        self._has_acted(key)
        return lambda: answer

    def _has_acted(self, key: str) -> None:
        self.acted.add(key)
        if key in self.settled:
            self.trouble.wrongs.append(f"{key} took effect after it was settled as not landed")

    def lag(self, key: str, most: timedelta) -> timedelta:
        """Return how long a lookup by that key does not show what was done now."""
        return timedelta(hours=2) if key in self.hidden else self.trouble.lag(most)

    def is_ours(self, reference: str) -> bool:
        """Whether the installation that walks now has made it."""
        return self.made_by[reference] == self.whose

    def named_from(self, shown_at: datetime) -> datetime:
        """Return from when on it is found by its reference: at once, says the contract."""
        return shown_at if self.trouble.beyond and self.trouble.rng.random() < HALF else self.now()

    def looked_up(self) -> None:
        """Raise when a question gets no answer."""
        if self.trouble.strikes("lookup_fails") is not None:
            raise LookupFailedError("no answer")


def _raising(error: Callable[[], Exception]) -> Callable[[], Any]:
    def answer() -> Any:
        raise error()

    return answer


def _kept_500() -> Exception:
    return GatewayServerError("internal error", is_replayed=True)


# -- payments --------------------------------------------------------------------------------------


class Payments(OtherSide):
    """A payment gateway in memory: `steps.gateways.payment.PaymentGateway`."""

    LAG = timedelta(minutes=1)

    def __init__(self, trouble: Trouble, clock: Callable[[], datetime]) -> None:
        super().__init__(trouble, clock)
        self.payments: dict[str, ChargeResult] = {}
        self._shown_at: dict[str, datetime] = {}
        self._named_from: dict[str, datetime] = {}

    @property
    def capabilities(self) -> GatewayCapabilities:
        return CAPABILITIES

    def authorize(
        self, request: ChargeRequest, *, key: str, timeout_seconds: float
    ) -> ChargeResult:
        del timeout_seconds
        return self.asked(key, lambda: self._authorize(request, key))

    def _authorize(self, request: ChargeRequest, key: str) -> ChargeResult:
        status = ChargeStatus.AUTHORIZED
        match self.trouble.strikes("declined", "challenged", "challenged"):
            case "declined":
                status = ChargeStatus.DECLINED
            case "challenged":
                status = ChargeStatus.REQUIRES_ACTION
            case _:
                pass
        reference = f"pay_{len(self.payments) + 1}"
        zero = Money(minor=0, currency=request.amount.currency)
        payment = ChargeResult(
            reference=reference,
            order_reference=request.order_reference,
            amount=request.amount,
            captured=zero,
            refunded=zero,
            status=status,
            key=key,
            created_at=self.now(),
            method=request.method,
        )
        self.payments[reference] = payment
        self.made_by[reference] = self.whose
        shown_at = self.now() + self.lag(key, self.LAG)
        self._shown_at[reference] = shown_at
        self._named_from[reference] = self.named_from(shown_at)
        self.news.append(reference)
        if status is ChargeStatus.DECLINED:
            raise CardDeclinedError("no", decisive=True)
        if status is ChargeStatus.REQUIRES_ACTION:
            raise AuthenticationRequiredError("challenge", challenge_url="x", reference=reference)
        return payment

    @property
    def ours(self) -> list[ChargeResult]:
        return [each for name, each in self.payments.items() if self.is_ours(name)]

    def answers_challenge(self, reference: str, *, passed: bool) -> None:
        """The payer has passed the challenge, or not; too late once it was called off."""
        if self.payments[reference].status is ChargeStatus.REQUIRES_ACTION:
            self._put(reference, ChargeStatus.AUTHORIZED if passed else ChargeStatus.DECLINED)

    def capture(self, request: CaptureRequest, *, key: str, timeout_seconds: float) -> ChargeResult:
        del timeout_seconds
        return self.asked(key, lambda: self._capture(request))

    def _capture(self, request: CaptureRequest) -> ChargeResult:
        payment = self._known(request.reference)
        if payment.status is ChargeStatus.CAPTURED and payment.captured == request.amount:
            return payment
        if payment.status is not ChargeStatus.AUTHORIZED:
            raise PaymentStateError("not held", existing=payment, code="x", decisive=True)
        if self.trouble.strikes("declined") is not None:
            raise PaymentStateError("no", existing=payment, code="x", decisive=True)
        return self._put(request.reference, ChargeStatus.CAPTURED, captured=request.amount)

    def void(self, reference: str, *, key: str, timeout_seconds: float) -> ChargeResult:
        del timeout_seconds
        return self.asked(key, lambda: self._void(reference))

    def _void(self, reference: str) -> ChargeResult:
        payment = self._known(reference)
        if payment.status in (ChargeStatus.VOIDED, ChargeStatus.EXPIRED):
            return payment
        if payment.status not in (ChargeStatus.AUTHORIZED, ChargeStatus.REQUIRES_ACTION):
            raise PaymentStateError("cannot be voided", existing=payment, code="x")
        return self._put(reference, ChargeStatus.VOIDED)

    def refund(self, request: RefundRequest, *, key: str, timeout_seconds: float) -> RefundResult:
        del timeout_seconds
        return self.asked(key, lambda: self._refund(request, key))

    def _refund(self, request: RefundRequest, key: str) -> RefundResult:
        payment = self._known(request.reference)
        if payment.status is ChargeStatus.REFUNDED and payment.refunds[0].amount == request.amount:
            return payment.refunds[0]
        if payment.status is not ChargeStatus.CAPTURED:
            raise PaymentStateError("nothing captured", existing=payment, code="x")
        refund = RefundResult(
            reference=f"re_{payment.reference}",
            payment_reference=payment.reference,
            amount=request.amount,
            status=RefundStatus.SUCCEEDED,
            key=key,
            created_at=self.now(),
        )
        self._put(
            request.reference, ChargeStatus.REFUNDED, refunded=request.amount, refunds=(refund,)
        )
        return refund

    def find(
        self,
        *,
        reference: str | None = None,
        key: str | None = None,
        order_reference: str | None = None,
        timeout_seconds: float,
    ) -> Sequence[ChargeResult]:
        del order_reference, timeout_seconds
        self.looked_up()
        now = self.now()
        if reference is not None:
            known = reference in self.payments and self._named_from[reference] <= now
            return [self.payments[reference]] if known else []
        return [
            each
            for each in self.payments.values()
            if each.key == key and self._shown_at[each.reference] <= now
        ]

    def list(self, day: date, *, timeout_seconds: float) -> Iterator[Any]:
        raise NotImplementedError

    def _known(self, reference: str) -> ChargeResult:
        if reference not in self.payments:
            raise PaymentNotFoundError(reference)
        return self.payments[reference]

    def _put(self, reference: str, status: ChargeStatus, **changes: Any) -> ChargeResult:
        payment = replace(self.payments[reference], status=status, **changes)
        self.payments[reference] = payment
        self.news.append(reference)
        return payment


CAPABILITIES = GatewayCapabilities(
    name="simulated",
    key_lifetime=timedelta(hours=24),
    key_max_length=255,
    replays_errors=True,
    refuses_key_in_flight=False,
    voids_only_before_capture=True,
    captures_once=True,
    refunds_are_asynchronous=False,
    authorization_lifetime=timedelta(days=7),
    lookup_lag=Payments.LAG,
    business_zone="UTC",
    keys_found=frozenset({MovementKind.AUTHORIZE}),
)


# -- deeds -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Deed:
    """What was done under a key. `opened`: begun, and done only when somebody outside says so.

    `within`: the deed that this one is done with, which its undoing undoes too.
    """

    step: str
    key: str
    reference: str
    named: bool
    state: str
    shown_at: datetime
    within: str | None = None
    undone_shown_at: datetime | None = None

    @property
    def stands(self) -> bool:
        return self.state == "done"


SIGNAL = "answer"


class Deeds(OtherSide):
    """Does deeds, and takes them back: what steps of random sagas ask for."""

    def __init__(self, trouble: Trouble, clock: Callable[[], datetime]) -> None:
        super().__init__(trouble, clock)
        self.deeds: dict[str, Deed] = {}
        self.declines: str | None = None  # every request of this step
        self.is_stubborn = False  # keeps a failure of every undo
        self._named_from: dict[str, datetime] = {}

    @property
    def ours(self) -> list[Deed]:
        return [each for name, each in self.deeds.items() if self.is_ours(name)]

    @property
    def standing(self) -> list[Deed]:
        return [each for each in self.ours if each.stands]

    def act(self, ctx: StepContext[Any], named: bool, lag: timedelta, within: str | None) -> Effect:
        """Do the step's deed. Without a name the answer does not tell which deed it was."""
        if ctx.waited:
            return self._after_the_wait(ctx)
        deed: Deed = self.asked(ctx.idempotency_key, lambda: self._do(ctx, named, lag, within))
        return _told(deed)

    def _do(self, ctx: StepContext[Any], named: bool, lag: timedelta, within: str | None) -> Deed:
        fault = self.trouble.strikes("declined", "challenged")
        if fault == "declined" or ctx.step == self.declines:
            raise Terminal("declined", decisive=True)
        state = "opened" if fault == "challenged" else "done"
        reference = f"{ctx.step}-{len(self.deeds) + 1}"
        self.deeds[reference] = Deed(
            step=ctx.step,
            key=ctx.idempotency_key,
            reference=reference,
            named=named,
            state=state,
            shown_at=self.now() + self.lag(ctx.idempotency_key, lag),
            within=within,
        )
        self.made_by[reference] = self.whose
        self._named_from[reference] = self.named_from(self.deeds[reference].shown_at)
        self.news.append(reference)
        if state == "opened":
            until = ctx.now + timedelta(minutes=15)
            raise Wait(SIGNAL, until, decisive=True, reference=reference if named else None)
        return self.deeds[reference]

    def _after_the_wait(self, ctx: StepContext[Any]) -> Effect:
        deed = self._begun(ctx)
        if deed is None:
            raise OutcomeUnknown("what was begun is not found")
        if deed.state == "opened" and ctx.signalled:
            until = ctx.now + timedelta(minutes=15)
            raise Wait(SIGNAL, until, decisive=True, reference=ctx.reference)
        if deed.state != "done":
            raise Terminal("not answered", decisive=True)
        return _told(deed)

    def answers(self, reference: str, *, passed: bool) -> None:
        """What was opened is done, or not."""
        if self.deeds[reference].state == "opened":
            self.deeds[reference].state = "done" if passed else "failed"
            self.news.append(reference)

    def undo(
        self, ctx: StepContext[Any], lag: timedelta, *, may_keep_failure: bool
    ) -> Effect | NothingThere | NotLanded:
        """Take the effect back, known or found under the key that did it."""
        deed = self._given(ctx)
        if deed is None:
            return NotLanded()
        found, key = deed, ctx.idempotency_key
        if self.is_stubborn and may_keep_failure:
            raise _kept_500()
        shown_after = self.lag(key, lag)
        self.asked(key, lambda: self._undo(found, shown_after), may_keep_failure=may_keep_failure)
        return Effect(reference=f"undo-{found.reference}")

    def _given(self, ctx: StepContext[Any]) -> Deed | None:
        """What an undo, or its probe, is about."""
        if ctx.effect is not None and ctx.effect.reference is not None:
            return self.deeds[ctx.effect.reference]
        return self._under(ctx.step_key)

    def _undo(self, deed: Deed, shown_after: timedelta) -> None:
        if self._stands_within(deed.reference):
            raise Terminal("taken by a later step, which must be undone")
        was_done = deed.state == "done"
        if deed.state in ("done", "opened"):
            deed.state = "undone"
            deed.undone_shown_at = self.now() + shown_after
        if was_done and deed.within is not None and not self._stands_within(deed.within):
            self.deeds[deed.within].state = "undone"

    def _stands_within(self, reference: str) -> bool:
        return any(each.stands and each.within == reference for each in self.deeds.values())

    def probe_undo(self, ctx: StepContext[Any]) -> Effect | NotLanded | CannotTell:
        """Tell whether the step's deed is undone."""
        self.looked_up()
        deed = self._given(ctx)
        if deed is None:
            return CannotTell("it is not found")
        is_shown = deed.undone_shown_at is None or deed.undone_shown_at <= self.now()
        if deed.state in ("undone", "failed") and is_shown:
            return Effect(reference=f"undo-{deed.reference}")
        return NotLanded(deed.state)

    def probe(self, ctx: StepContext[Any]) -> Effect | NotLanded | CannotTell:
        """Tell whether the step's deed was done under its key."""
        deed = self._begun(ctx)
        if deed is None or deed.state == "failed":
            return NotLanded()
        if deed.state == "done":
            return _told(deed)
        return CannotTell(deed.state)

    def _begun(self, ctx: StepContext[Any]) -> Deed | None:
        if ctx.reference is None:
            return self._under(ctx.step_key)
        self.looked_up()
        is_found = self._named_from[ctx.reference] <= self.now()
        return self.deeds[ctx.reference] if is_found else None

    def _under(self, key: str) -> Deed | None:
        self.looked_up()
        now = self.now()
        return next((e for e in self.deeds.values() if e.key == key and e.shown_at <= now), None)


def _told(deed: Deed) -> Effect:
    return Effect(value={"deed": deed.reference}, reference=deed.reference if deed.named else None)
