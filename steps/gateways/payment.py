"""What a checkout needs of a payment gateway, and the facts in which gateways differ.

Money is *held* by an authorization, *taken* by its one capture, *released* by a void before the
capture and *given back* by refunds after it. Every operation names an idempotency key; sending
the same operation again with its key returns the first answer. Questions need no key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from steps.money import Money, exponent_of


class ChargeStatus(StrEnum):
    """Where a payment stands at the gateway."""

    REQUIRES_ACTION = "requires_action"
    AUTHORIZED = "authorized"
    CAPTURED = "captured"
    VOIDED = "voided"
    EXPIRED = "expired"
    REFUNDED = "refunded"
    DECLINED = "declined"

    @property
    def holds_money(self) -> bool:
        """The payer's money is reserved or taken."""
        return self in {ChargeStatus.AUTHORIZED, ChargeStatus.CAPTURED}


class RefundStatus(StrEnum):
    """Where a refund stands. Accepted is not settled: a pending refund may still fail."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class MovementKind(StrEnum):
    """What one line of a gateway's daily report tells."""

    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"
    REFUND_FAILED = "refund_failed"


class CheckResult(StrEnum):
    """What an issuer said of one thing that the payer typed."""

    MATCH = "match"
    PARTIAL = "partial"
    MISMATCH = "mismatch"
    NOT_CHECKED = "not_checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class CardChecks:
    """What came with an authorization: of the address (AVS) and of the security code (CVV).

    None is *not told*: the shop sent nothing to check, or the gateway has no word for it. An issuer
    that was given something and did not look at it is `NOT_CHECKED`. `authenticated` tells whether
    the payer passed 3-D Secure, with a challenge or without one.
    """

    avs: CheckResult | None = None
    cvv: CheckResult | None = None
    authenticated: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeRequest:
    """Hold `amount` on the payment method behind `token` for our order `order_reference`.

    `challenge` asks that the payer authenticate (3-D Secure), also where the issuer would not. A
    card that cannot is charged without; `CardChecks.authenticated` tells.
    """

    amount: Money
    token: str = field(repr=False)  # opaque, but it spends money: keep it out of logs
    order_reference: str
    challenge: bool = False

    @property
    def method(self) -> str:
        """What the payment method is told apart by; see `method_of`."""
        return method_of(self.token)


def method_of(token: str) -> str:
    """Return what tells a payment method apart from others, and cannot be spent: a digest."""
    return hashlib.sha256(f"payment method {token}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRequest:
    """Take `amount`, at most what was authorized, from the payment `reference`."""

    reference: str
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRequest:
    """Give back `amount`, at most what is left of the capture, of the payment `reference`."""

    reference: str
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundResult:
    """One refund as the gateway knows it. `payment_reference` is the payment it gives back."""

    reference: str
    payment_reference: str
    amount: Money
    status: RefundStatus
    key: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeResult:
    """One payment as the gateway knows it now.

    Attributes:
        reference: the gateway's name for the payment.
        order_reference: our name for it, as given to authorize.
        amount: what was asked to be authorized.
        captured: what was taken, before refunds.
        refunded: what was given back, pending refunds included and failed ones not.
        key: the idempotency key of the authorization.
        challenge_url: where the payer authenticates, while `status` is requires_action.
        method: what `method_of` says of the token that it was opened with; empty where the gateway
            does not tell.
        card_checks: told once the issuer has authorized.
    """

    reference: str
    order_reference: str
    amount: Money
    captured: Money
    refunded: Money
    status: ChargeStatus
    key: str
    created_at: datetime
    refunds: tuple[RefundResult, ...] = ()
    challenge_url: str | None = None
    method: str = ""
    card_checks: CardChecks = CardChecks()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportLine:
    """One movement of money in the gateway's report of a day.

    `reference` names the moved object (the refund for a refund, else the payment itself).
    """

    kind: MovementKind
    reference: str
    payment_reference: str
    order_reference: str
    amount: Money
    key: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableLine:
    """A line of the report that is not as its gateway promises; it may tell of any movement.

    `raw` is what came, as JSON. Nobody has redacted it.
    """

    raw: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayCapabilities:
    """The facts in which gateways differ, as data for the steps and the engine's settling.

    Attributes:
        name: short and stable; part of what reconciliation stores.
        key_lifetime: how long a key replays its first answer. Past half of it never replay.
        key_max_length: longest key, in characters.
        replays_errors: a kept failure, a 500 included, is replayed too; only a lookup settles it.
        refuses_key_in_flight: a second request with a key still being worked on is refused.
        voids_only_before_capture: after the capture only a refund gives money back.
        captures_once: the rest of a partly captured authorization is released.
        refunds_are_asynchronous: an accepted refund may still fail.
        authorization_lifetime: how long money stays held without a capture.
        lookup_lag: how long after an effect `find` may still not see it.
        business_zone: IANA zone in which the report's days begin and end.
        keys_found: the operations by whose keys `find` knows a payment.
        exponents: currencies whose minor unit differs from ISO 4217 at this gateway.
    """

    name: str
    key_lifetime: timedelta
    key_max_length: int
    replays_errors: bool
    refuses_key_in_flight: bool
    voids_only_before_capture: bool
    captures_once: bool
    refunds_are_asynchronous: bool
    authorization_lifetime: timedelta
    lookup_lag: timedelta
    business_zone: str
    keys_found: frozenset[MovementKind]
    exponents: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def exponent(self, currency: str) -> int:
        """Decimals of `currency` in this gateway's integers."""
        return self.exponents.get(currency, exponent_of(currency))


class PaymentGateway(Protocol):
    """The gateway as the steps see it.

    Every method takes `timeout_seconds`, the longest the whole call may last (from the step's
    `call_timeout`), and raises the errors of `steps.gateways.errors` only. Keys are ours: derived,
    at most `capabilities.key_max_length` long, never reused for another operation.
    """

    @property
    def capabilities(self) -> GatewayCapabilities: ...

    def authorize(
        self, request: ChargeRequest, *, key: str, timeout_seconds: float
    ) -> ChargeResult:
        """Hold the money and return the authorized payment.

        Raises:
            CardDeclinedError: the issuer refused; decisive for the key.
            AuthenticationRequiredError: the payer must act first.
        """
        ...

    def capture(self, request: CaptureRequest, *, key: str, timeout_seconds: float) -> ChargeResult:
        """Take held money and return the captured payment; the rest of the hold is released.

        Succeeds as well where the same amount was captured before and none of it given back.

        Raises:
            PaymentStateError: voided, expired, never authorized, captured with another amount, or
                refunded since.
            PaymentNotFoundError: no such payment.
        """
        ...

    def void(self, reference: str, *, key: str, timeout_seconds: float) -> ChargeResult:
        """Release an uncaptured authorization, or call off one that awaits its challenge.

        Succeeds as well where it was voided before or its hold has expired.

        Raises:
            PaymentStateError: captured already (refund instead) or declined (nothing is held).
            PaymentNotFoundError: no such payment.
        """
        ...

    def refund(self, request: RefundRequest, *, key: str, timeout_seconds: float) -> RefundResult:
        """Give captured money back and return the refund, which may be pending.

        Succeeds as well where one earlier refund of exactly this amount left nothing to refund.

        Raises:
            PaymentStateError: nothing captured, or less left than asked for.
            PaymentNotFoundError: no such payment.
        """
        ...

    def find(
        self,
        *,
        reference: str | None = None,
        key: str | None = None,
        order_reference: str | None = None,
        timeout_seconds: float,
    ) -> Sequence[ChargeResult]:
        """The payments that exactly one of the names identifies, oldest first; none is ().

        `key` may be that of any operation in `capabilities.keys_found`. More than one payment for
        a key or an order is a charge too many. Straight after a lost answer "none" proves nothing:
        see `capabilities.lookup_lag`.
        """
        ...

    def list(self, day: date, *, timeout_seconds: float) -> Iterator[ReportLine | UnreadableLine]:
        """Every movement of money on `day` in `capabilities.business_zone`, in order.

        Read page by page as the caller consumes it; each page may last `timeout_seconds`. A line
        that cannot be read spoils no other, but a page that cannot be read ends the report.

        Raises:
            LookupFailedError: a page did not come whole; what was read is not the day.
        """
        ...
