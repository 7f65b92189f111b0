"""How a call to an outside party can fail, in the engine's three outcomes.

Each class is one of *no effect and worth retrying* (`Retriable`), *no effect and final*
(`Terminal`) or *nobody knows* (`OutcomeUnknown`). An adapter owns one table from what its gateway
says to these classes; nothing after it looks at status codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from orchestrator.errors import OutcomeUnknown, Retriable, StepError, Terminal
from steps.gateways.payment import ChargeResult


class PaymentError(StepError):
    """Root of everything a payment gateway or a carrier can answer instead of a success."""

    @property
    def is_retriable(self) -> bool:
        """Nothing happened and the same call may succeed later."""
        return isinstance(self, Retriable)


# Nothing happened; ask again later.


class NetworkError(PaymentError, Retriable):
    """The request never left: name not found, connection refused, no connection in time."""


class GatewayUnavailableError(PaymentError, Retriable):
    """The gateway refused the request and vouched in its answer that nothing happened."""


class BalanceTooLowError(PaymentError, Retriable):
    """What the gateway holds for us does not cover the refund now; it may tomorrow."""


class RateLimitedError(PaymentError, Retriable):
    """Too many requests; the gateway did not look at this one, so it spends no budget."""

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = "rate_limited",
        details: Mapping[str, object] | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(
            message, code=code, details=details, retry_after=retry_after, spends_budget=False
        )


class LookupFailedError(PaymentError, Retriable):
    """A question (`find`, `list`) got no usable answer. Questions have no effect: ask again."""


# Nothing happened, and that is final.


class CardDeclinedError(PaymentError, Terminal):
    """The issuer said no. The gateway keeps this answer for the key, so it is decisive."""


class InsufficientFundsError(CardDeclinedError):
    """The issuer said no for want of money; another card may do."""


class FraudBlockedError(PaymentError, Terminal):
    """A fraud rule, ours or the gateway's, stopped the payment."""


class InvalidRequestError(PaymentError, Terminal):
    """The gateway cannot accept the request as it is; `decisive` where it kept that answer."""


class PaymentNotFoundError(PaymentError, Terminal):
    """The gateway knows no payment of that reference."""


class PaymentStateError(PaymentError, Terminal):
    """The payment's state forbids the operation; `existing` is the payment as it stands.

    `code` is one of already_captured, already_voided, already_refunded, not_captured,
    not_authorized, exceeds_authorized, exceeds_captured, authorization_expired,
    currency_mismatch. Where the payment already is what was asked for, the adapter
    answers with success instead.
    """

    def __init__(
        self,
        message: str = "",
        *,
        existing: ChargeResult | None = None,
        code: str | None = None,
        details: Mapping[str, object] | None = None,
        decisive: bool = False,
    ) -> None:
        super().__init__(message, code=code, details=details, decisive=decisive)
        self.existing = existing


class ShipmentRefusedError(PaymentError, Terminal):
    """The carrier will not take the parcel."""


# It may have happened.


class GatewayTimeoutError(PaymentError, OutcomeUnknown):
    """The request went out and no answer came back: too late, or the connection broke."""


class GatewayServerError(PaymentError, OutcomeUnknown):
    """The gateway answered, but with nothing that says whether it did it.

    `is_replayed` tells that the gateway keeps this very answer for the key: a replay can never
    settle it, only a lookup can.
    """

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        details: Mapping[str, object] | None = None,
        is_replayed: bool = False,
    ) -> None:
        super().__init__(message, code=code, details=details, is_kept=is_replayed)
        self.is_replayed = is_replayed


class KeyInUseError(PaymentError, OutcomeUnknown):
    """An earlier request with this key is still being worked on."""


class KeyConflictError(PaymentError, OutcomeUnknown):
    """The gateway saw this key with other parameters, so something of ours happened under it.

    Never answered with a fresh key: look the payment up.
    """


class AuthenticationRequiredError(PaymentError, OutcomeUnknown):
    """The payer must pass a 3-D Secure challenge at `challenge_url` before money is held.

    Not a failure but a wait: the step turns it into `Wait`, and when woken it *finds* the payment,
    for the key replays this first answer for ever. A step that lets it through unhandled ends
    unknown, which is true: the payer may still complete it.
    """

    def __init__(
        self,
        message: str = "",
        *,
        challenge_url: str,
        reference: str,
        code: str | None = "authentication_required",
    ) -> None:
        super().__init__(message, code=code, details={"reference": reference})
        self.challenge_url = challenge_url
        self.reference = reference
