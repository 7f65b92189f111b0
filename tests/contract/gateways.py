"""The payment gateway adapters under contract, and an order as a checkout would pay for it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import count

from steps.gateways.payment import (
    CaptureRequest,
    ChargeRequest,
    ChargeResult,
    PaymentGateway,
    RefundRequest,
    RefundResult,
)
from steps.gateways.sandbox.client import SandboxGateway
from steps.gateways.stripe.client import StripeGateway
from steps.money import Money

PRICE = Money.of("49.90", "EUR")
LONG = 10.0
SHORT = 0.6
FAKE_KEY = "sk_test_not_a_real_key"

_LONGEST = timedelta(seconds=30)

serial = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One adapter: how it connects to a base URL, and what its gateway calls each test card."""

    connect: Callable[[str], PaymentGateway]
    tokens: dict[str, str]


def _stripe(base_url: str) -> StripeGateway:
    return StripeGateway(
        FAKE_KEY, timeout=_LONGEST, base_url=base_url, return_url="https://shop.example/paid"
    )


ADAPTERS: dict[str, Adapter] = {
    "sandbox": Adapter(
        connect=lambda base_url: SandboxGateway(base_url, timeout=_LONGEST),
        tokens={
            "ok": "tok_ok",
            "declined": "tok_declined",
            "insufficient_funds": "tok_insufficient_funds",
            "challenge": "tok_challenge",
            "cvv_mismatch": "tok_cvv_mismatch",
            "avs_mismatch": "tok_avs_mismatch",
            "avs_partial": "tok_avs_partial",
            "avs_unchecked": "tok_avs_unchecked",
            "unenrolled": "tok_unenrolled",
            "nobody": "tok_nobody",
        },
    ),
    "stripe": Adapter(
        connect=_stripe,
        tokens={
            "ok": "pm_card_visa",
            "declined": "pm_card_chargeDeclined",
            "insufficient_funds": "pm_card_chargeDeclinedInsufficientFunds",
            "challenge": "pm_card_authenticationRequired",
            "cvv_mismatch": "pm_card_cvcCheckFail",
            "avs_mismatch": "pm_card_avsFail",
            "avs_partial": "pm_card_avsLine1Fail",
            "avs_unchecked": "pm_card_avsUnchecked",
            "unenrolled": "pm_card_amex",
            "nobody": "pm_nobody",
        },
    ),
    "localstripe": Adapter(
        connect=lambda base_url: StripeGateway(FAKE_KEY, timeout=_LONGEST, base_url=base_url),
        tokens={
            "ok": "pm_card_visa",
            "declined": "pm_card_chargeCustomerFail",
            "insufficient_funds": "pm_card_chargeDeclinedInsufficientFunds",
            "challenge": "pm_card_authenticationRequired",
            "cvv_mismatch": "pm_card_cvcCheckFail",
            "avs_mismatch": "pm_card_avsFail",
            "avs_partial": "pm_card_avsLine1Fail",
            "avs_unchecked": "pm_card_avsUnchecked",
            "unenrolled": "pm_card_amex",
            "nobody": "pm_nobody",
        },
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order with its keys, and its payment as a checkout would make it."""

    gateway: PaymentGateway
    tokens: dict[str, str]
    reference: str

    def key(self, step: str) -> str:
        return f"{self.reference}:{step}"

    def authorize(
        self,
        card: str = "ok",
        *,
        amount: Money = PRICE,
        key: str = "authorize",
        challenge: bool = False,
        timeout_seconds: float = LONG,
    ) -> ChargeResult:
        request = ChargeRequest(
            amount=amount,
            token=self.tokens[card],
            order_reference=self.reference,
            challenge=challenge,
        )
        return self.gateway.authorize(request, key=self.key(key), timeout_seconds=timeout_seconds)

    def capture(
        self, payment: ChargeResult, *, amount: Money = PRICE, key: str = "capture"
    ) -> ChargeResult:
        request = CaptureRequest(reference=payment.reference, amount=amount)
        return self.gateway.capture(request, key=self.key(key), timeout_seconds=LONG)

    def captured(self) -> ChargeResult:
        return self.capture(self.authorize())

    def void(self, payment: ChargeResult, *, key: str = "void") -> ChargeResult:
        return self.gateway.void(payment.reference, key=self.key(key), timeout_seconds=LONG)

    def refund(
        self, payment: ChargeResult, amount: Money = PRICE, *, key: str = "refund"
    ) -> RefundResult:
        request = RefundRequest(reference=payment.reference, amount=amount)
        return self.gateway.refund(request, key=self.key(key), timeout_seconds=LONG)

    def found(self, payment: ChargeResult | None = None) -> ChargeResult:
        """The payment as it stands, by its reference or as the only one of the order."""
        name = (
            {"order_reference": self.reference}
            if payment is None
            else {"reference": payment.reference}
        )
        (found,) = self.gateway.find(**name, timeout_seconds=LONG)
        return found
