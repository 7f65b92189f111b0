"""The gateway decides in one way and words its answers in several: its own form, and Stripe's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from steps.gateways.sandbox.movements import Command, Movement, Operation, Payment
from steps.gateways.sandbox.records import Answer
from steps.gateways.sandbox.rules import Verdict

KEY_MAX_LENGTH: Final = 255

RATE_LIMITED: Final = Verdict(status=429, answer="rate_limited", message="too many requests")
KEY_IN_USE: Final = Verdict(
    status=409, answer="key_in_use", message="an earlier request with this key is in flight"
)
KEY_CONFLICT: Final = Verdict(
    status=409, answer="key_conflict", message="this key was used with other parameters"
)
UNAVAILABLE: Final = Verdict(status=503, answer="unavailable", message="try again later")
INTERNAL_ERROR: Final = Verdict(
    status=500, answer="internal_error", message="the gateway failed while working on this"
)


class Form(Protocol):
    """One face of the gateway: how it names what it opens, and how it says yes and no."""

    @property
    def prefixes(self) -> Mapping[Operation, str]:
        """What the references of new objects begin with."""
        ...

    def success(
        self, command: Command, verdict: Verdict, payment: Payment | None, movement: Movement
    ) -> Answer:
        """The answer to a command that was done; a shipment has no payment."""
        ...

    def refusal(
        self, verdict: Verdict, payment: Payment | None = None, *, vouches: bool = False
    ) -> Answer:
        """The answer to what was not done; `vouches` where it may say that nothing happened."""
        ...
