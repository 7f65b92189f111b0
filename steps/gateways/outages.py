"""What the end of a call says of a gateway's health: the table of its circuit breaker.

An answer is an answer, also a decline. Only silence and failure of the other side count against it.
The nearest class of an error decides; those above it in its family are not asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from orchestrator.guarding import Verdict, judged
from steps.gateways.errors import (
    AuthenticationRequiredError,
    BalanceTooLowError,
    GatewayServerError,
    GatewayTimeoutError,
    GatewayUnavailableError,
    KeyConflictError,
    KeyInUseError,
    LookupFailedError,
    NetworkError,
    RateLimitedError,
)

VERDICTS: Final[Mapping[type[BaseException], Verdict]] = {
    NetworkError: Verdict.OUTAGE,  # refused connections among them
    GatewayTimeoutError: Verdict.OUTAGE,
    GatewayServerError: Verdict.OUTAGE,
    GatewayUnavailableError: Verdict.OUTAGE,
    LookupFailedError: Verdict.OUTAGE,
    RateLimitedError: Verdict.ANSWERED,
    BalanceTooLowError: Verdict.ANSWERED,
    KeyInUseError: Verdict.ANSWERED,
    KeyConflictError: Verdict.ANSWERED,
    AuthenticationRequiredError: Verdict.ANSWERED,
}
"""Every other `Terminal` is an answer; see `orchestrator.guarding.judged` for the rest."""


def of_gateway(error: BaseException) -> Verdict:
    """Return what an error of a payment gateway or a carrier says of it."""
    if isinstance(error, GatewayServerError) and error.is_replayed:
        return Verdict.ANSWERED  # it works: it remembered how this key once failed
    for kind in type(error).__mro__:
        if kind in VERDICTS:
            return VERDICTS[kind]
    return judged(error)
