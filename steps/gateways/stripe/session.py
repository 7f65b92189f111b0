"""One operation's calls to Stripe, within one deadline, each ending in a value or its one error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import stripe

from steps.gateways.errors import PaymentError
from steps.gateways.reading import Json, UnreadableAnswerError
from steps.gateways.stripe.classification import (
    REPLAYED_HEADER,
    error_of,
    lookup_error_of,
    unreadable,
)

Call = Callable[[Any], object]
"""A call of Stripe's v1 services, which are typed too narrowly to be named here."""

_LARGEST_PAGE = 100

T = TypeVar("T")


class Session:
    """Runs calls of `client`, whose deadline they share."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._client = client

    def effect(self, call: Call, read: Callable[[Json], T]) -> T:
        """Ask for an effect: one call, so that its end alone decides what the end means.

        Raises:
            PaymentError: the call ended in any other way; see `classification`.
        """
        return self._value(call, read, lambda error: error)

    def question(self, call: Call, read: Callable[[Json], T]) -> T:
        """Ask a question; a failure says nothing, so it is retriable or final, never unknown."""
        return self._value(call, lambda body: read(self._whole(body)), lookup_error_of)

    def _value(
        self,
        call: Call,
        read: Callable[[dict[str, Any]], T],
        as_error: Callable[[PaymentError], PaymentError],
    ) -> T:
        try:
            answer = call(self._client.v1)
            try:
                return read(_plain(answer))
            except UnreadableAnswerError as error:
                raise as_error(unreadable(str(error), is_replayed=_is_replayed(answer))) from error
        except stripe.StripeError as error:
            # Its own text may quote a whole answer, so it is not kept as the cause.
            raise as_error(error_of(error)) from None
        except AttributeError as error:  # the client met an ``error`` that is no JSON object
            raise as_error(unreadable("no error object", is_replayed=False)) from error

    def _whole(self, body: dict[str, Any]) -> dict[str, Any]:
        """Stripe shows ten refunds with a charge; where there are more, all are fetched."""
        for charge in _charges_in(body):
            refunds = charge.get("refunds")
            if isinstance(refunds, dict) and refunds.get("has_more"):
                named: Any = {"charge": charge["id"], "limit": _LARGEST_PAGE}
                every = self._client.v1.refunds.list(named).auto_paging_iter()
                charge["refunds"] = {"data": [each.to_dict() for each in every], "has_more": False}
        return body


def _charges_in(body: dict[str, Any]) -> list[dict[str, Any]]:
    rows = body.get("data")
    intents = rows if isinstance(rows, list) else [body]
    charges = [each.get("latest_charge") for each in intents if isinstance(each, dict)]
    return [each for each in charges if isinstance(each, dict)]


def _is_replayed(answer: object) -> bool:
    response = getattr(answer, "last_response", None)
    return response is not None and response.headers.get(REPLAYED_HEADER) == "true"


def _plain(answer: object) -> dict[str, Any]:
    if not isinstance(answer, stripe.StripeObject):
        raise UnreadableAnswerError("not a JSON object")
    return answer.to_dict()
