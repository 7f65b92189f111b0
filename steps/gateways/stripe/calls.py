"""Stripe's official client over our own HTTP calls: a hard end, no retries, forks allowed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import NoReturn

import stripe

from steps.gateways.http_calls import Answered, HttpCalls, Unanswered

stripe.enable_telemetry = False  # else it keeps an id in the home directory, and times every call
logging.getLogger("stripe").setLevel(logging.INFO)  # below that it logs bodies, tokens included


class UnansweredError(stripe.APIConnectionError):
    """No complete answer came; `ending` tells whether anything was sent."""

    def __init__(self, ending: Unanswered) -> None:
        super().__init__(ending.reason)  # type: ignore[no-untyped-call]
        self.ending = ending


def client_within(
    calls: HttpCalls, *, api_key: str, base_url: str, timeout_seconds: float
) -> stripe.StripeClient:
    """A client whose calls all end within one deadline, counted from now. It is cheap: 5 µs."""
    return stripe.StripeClient(
        api_key,
        base_addresses={"api": base_url},
        http_client=_OneDeadline(calls, time.monotonic() + timeout_seconds),
        max_network_retries=0,
    )


class _OneDeadline(stripe.HTTPClient):
    name = "amends"

    def __init__(self, calls: HttpCalls, deadline: float) -> None:
        super().__init__()
        self._calls = calls
        self._deadline = deadline

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: object = None,
        *,
        _usage: list[str] | None = None,
    ) -> tuple[str, int, Mapping[str, str]]:
        """Send one request."""
        ending = self._calls.send(
            method.upper(),
            url,
            timeout_seconds=self._deadline - time.monotonic(),
            headers=headers,
            content=post_data,
        )
        match ending:
            case Unanswered():
                raise UnansweredError(ending)
            case Answered():
                return ending.content.decode(errors="replace"), ending.status, ending.headers

    def request_stream(self, *_: object, **__: object) -> NoReturn:
        """Nothing here streams."""
        raise NotImplementedError

    def close(self) -> None:
        """The connections belong to `HttpCalls`."""
