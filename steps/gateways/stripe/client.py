"""`PaymentGateway` over Stripe's payment intents, captured by hand.

Stripe finds nothing by an idempotency key, so an intent bears its key and our order in its
metadata, and is searched by them. Its search lags and takes `A` for `a`; `retrieve` does neither.
It takes amounts to capture and to refund without a currency, so those first look at the payment
they are about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, TypeVar

from orchestrator.seam import durable
from steps.gateways.arguments import checked_key, one_name
from steps.gateways.done_before import captured_before, refunded_before, released_before
from steps.gateways.errors import (
    AuthenticationRequiredError,
    InvalidRequestError,
    LookupFailedError,
    PaymentNotFoundError,
    PaymentStateError,
)
from steps.gateways.http_calls import HttpCalls, checked_base_url
from steps.gateways.payment import (
    CaptureRequest,
    ChargeRequest,
    ChargeResult,
    ChargeStatus,
    GatewayCapabilities,
    MovementKind,
    RefundRequest,
    RefundResult,
    ReportLine,
    UnreadableLine,
)
from steps.gateways.reading import Json
from steps.gateways.stripe import answers, refusals
from steps.gateways.stripe.amounts import EXPONENTS, in_stripe_units
from steps.gateways.stripe.calls import client_within
from steps.gateways.stripe.session import Call, Session
from steps.money import Money, MoneyError

STRIPE_URL: Final = "https://api.stripe.com"

STRIPE_CAPABILITIES: Final = GatewayCapabilities(
    name="stripe",
    key_lifetime=timedelta(hours=24),  # at least; Stripe prunes keys no sooner
    key_max_length=255,
    replays_errors=True,
    refuses_key_in_flight=True,
    voids_only_before_capture=True,
    captures_once=True,
    refunds_are_asynchronous=True,
    authorization_lifetime=timedelta(days=7),  # most cards; some networks give less
    lookup_lag=timedelta(minutes=1),  # of its search, on a normal day
    business_zone="UTC",
    keys_found=frozenset({MovementKind.AUTHORIZE}),
    exponents=EXPONENTS,
)

_LARGEST_PAGE: Final = 100
_WINDOW: Final = timedelta(hours=1)  # of a day's events, kept in memory to be turned round

T = TypeVar("T")


class StripeGateway:
    """One Stripe account.

    Args:
        api_key: a secret key, or a restricted one that may write payment intents and refunds, and
            read events.
        timeout: caps every call, however long it may take.
        base_url: where Stripe's v1 interface is.
        return_url: where Stripe sends a payer after a challenge; without it a challenge has no
            page of its own, and the shop's page must show it with Stripe's SDK.
    """

    def __init__(
        self,
        api_key: str,
        *,
        timeout: timedelta,
        base_url: str = STRIPE_URL,
        return_url: str | None = None,
    ) -> None:
        self._api_key = api_key
        self._base_url = checked_base_url(base_url)
        self._return_url = return_url
        self._calls = HttpCalls(longest=timeout)

    @property
    def capabilities(self) -> GatewayCapabilities:
        return STRIPE_CAPABILITIES

    def authorize(
        self, request: ChargeRequest, *, key: str, timeout_seconds: float
    ) -> ChargeResult:
        options = _under(key)
        asked: dict[str, Any] = {
            "amount": _units(request.amount),
            "currency": request.amount.currency.lower(),
            "payment_method": request.token,
            "payment_method_types": ["card"],
            "capture_method": "manual",
            "confirm": True,
            "metadata": {
                answers.ORDER: request.order_reference,
                answers.AUTHORIZE_KEY: key,
                answers.METHOD: request.method,
            },
            "expand": answers.WHOLE,
        }
        if request.challenge:
            asked["payment_method_options"] = {"card": {"request_three_d_secure": "challenge"}}
        if self._return_url is not None:
            asked["return_url"] = self._return_url
        payment = self._perform(
            "gateway.authorize",
            timeout_seconds,
            lambda session: session.effect(
                lambda v1: v1.payment_intents.create(asked, options), answers.payment
            ),
        )
        if payment.status is ChargeStatus.REQUIRES_ACTION:
            raise AuthenticationRequiredError(
                "the payer must authenticate",
                challenge_url=payment.challenge_url or "",
                reference=payment.reference,
            )
        return payment

    def capture(self, request: CaptureRequest, *, key: str, timeout_seconds: float) -> ChargeResult:
        options = _under(key)
        asked = {"amount_to_capture": _units(request.amount), "expand": answers.WHOLE}

        def capture(session: Session) -> ChargeResult:
            refusals.of_one_currency(_retrieved(session, request.reference), request.amount)
            return _explained(
                session,
                lambda v1: v1.payment_intents.capture(request.reference, asked, options),
                answers.payment,
                request.reference,
                refusals.against_capture(request.amount),
            )

        try:
            return self._perform("gateway.capture", timeout_seconds, capture)
        except PaymentStateError as error:
            return captured_before(error, request)

    def void(self, reference: str, *, key: str, timeout_seconds: float) -> ChargeResult:
        options = _under(key)
        asked = {"expand": answers.WHOLE}

        def cancel(session: Session) -> ChargeResult:
            return _explained(
                session,
                lambda v1: v1.payment_intents.cancel(reference, asked, options),
                answers.payment,
                reference,
                refusals.against_void,
            )

        try:
            return self._perform("gateway.void", timeout_seconds, cancel)
        except PaymentStateError as error:
            return released_before(error)

    def refund(self, request: RefundRequest, *, key: str, timeout_seconds: float) -> RefundResult:
        options, amount = _under(key), _units(request.amount)

        def refund(session: Session) -> RefundResult:
            payment = _retrieved(session, request.reference)
            refusals.of_one_currency(payment, request.amount)
            asked = {
                "payment_intent": request.reference,
                "amount": amount,
                "metadata": {answers.ORDER: payment.order_reference, answers.REFUND_KEY: key},
            }
            return _explained(
                session,
                lambda v1: v1.refunds.create(asked, options),
                answers.refund,
                request.reference,
                refusals.against_refund(request.amount),
            )

        try:
            return self._perform("gateway.refund", timeout_seconds, refund)
        except PaymentStateError as error:
            return refunded_before(error, request)

    def find(
        self,
        *,
        reference: str | None = None,
        key: str | None = None,
        order_reference: str | None = None,
        timeout_seconds: float,
    ) -> Sequence[ChargeResult]:
        named = one_name(reference=reference, key=key, order_reference=order_reference)
        return self._perform(
            "gateway.find", timeout_seconds, lambda session: _found(session, named)
        )

    def list(self, day: date, *, timeout_seconds: float) -> Iterator[ReportLine | UnreadableLine]:
        """Every movement of money on a UTC day, from Stripe's events.

        Stripe keeps events for 30 days, and tells the newest first: an hour's are kept in memory.
        """
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        for hour in range(24):
            window = start + _WINDOW * hour
            pages = list(self._pages(window, window + _WINDOW, timeout_seconds))
            yield from (line for page in reversed(pages) for line in reversed(page))

    def close(self) -> None:
        """Close this process's connections; the next call opens new ones."""
        self._calls.close()

    def _pages(
        self, start: datetime, end: datetime, timeout_seconds: float
    ) -> Iterator[Sequence[ReportLine | UnreadableLine]]:
        asked: dict[str, Any] = {
            "created": {"gte": int(start.timestamp()), "lt": int(end.timestamp())},
            "types": list(answers.EVENTS),
            "limit": _LARGEST_PAGE,
        }
        last: str | None = None
        while True:
            after = {} if last is None else {"starting_after": last}
            page = self._perform(
                "gateway.list",
                timeout_seconds,
                lambda session, after=after: session.question(  # type: ignore[misc]
                    lambda v1: v1.events.list(asked | after), answers.report_page
                ),
            )
            if page.last_id is not None and page.last_id == last:
                raise LookupFailedError(f"the list of events does not go on after {last}")
            yield page.lines
            last = page.last_id
            if last is None:
                return

    def _perform(self, name: str, timeout_seconds: float, work: Callable[[Session], T]) -> T:
        client = client_within(
            self._calls,
            api_key=self._api_key,
            base_url=self._base_url,
            timeout_seconds=timeout_seconds,
        )
        return durable(name, lambda: work(Session(client)))


def _found(session: Session, named: dict[str, str]) -> Sequence[ChargeResult]:
    if "reference" in named:
        try:
            return (_retrieved(session, named["reference"]),)
        except PaymentNotFoundError:
            return ()
    (value,) = named.values()
    metadata = answers.AUTHORIZE_KEY if "key" in named else answers.ORDER
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    asked: dict[str, Any] = {
        "query": f"metadata['{metadata}']:'{quoted}'",
        "limit": _LARGEST_PAGE,
        "expand": [f"data.{each}" for each in answers.WHOLE],
    }
    found = session.question(lambda v1: v1.payment_intents.search(asked), answers.payments)
    return tuple(each for each in found if value == _name_of(each, metadata))


def _name_of(payment: ChargeResult, metadata: str) -> str:
    return payment.key if metadata == answers.AUTHORIZE_KEY else payment.order_reference


def _retrieved(session: Session, reference: str) -> ChargeResult:
    return session.question(
        lambda v1: v1.payment_intents.retrieve(reference, {"expand": answers.WHOLE}),
        answers.payment,
    )


def _explained(
    session: Session,
    call: Call,
    read: Callable[[Json], T],
    reference: str,
    reason: refusals.Reason,
) -> T:
    """The effect, or its refusal as the payment's state explains it.

    Raises:
        PaymentStateError: the state forbids it.
        LookupFailedError: refused, and then the payment could not be looked at.
    """
    try:
        return session.effect(call, read)
    except InvalidRequestError as error:
        payment = _retrieved(session, reference)
        raise refusals.explained(error, payment, reason) from error


def _units(amount: Money) -> int:
    try:
        return in_stripe_units(amount)
    except MoneyError as error:
        raise InvalidRequestError(str(error), code="invalid_amount") from error


def _under(key: str) -> dict[str, Any]:
    return {"idempotency_key": checked_key(key, longest=STRIPE_CAPABILITIES.key_max_length)}
