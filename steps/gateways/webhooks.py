"""Tells a gateway's own webhooks from everybody else's, by their signature.

Stripe's form, which the sandbox signs in too, under a header of its own:

    t=<seconds since the epoch>,v1=<hex of HMAC-SHA256 over "<t>.<body>">[,v1=…][,<scheme>=…]

The first `t` counts, any `v1` may match, other schemes are passed over. Authenticity comes before
freshness: of an unsigned body nothing is believed, its age neither. What is signed and fresh may
still be a repetition; that is the receiver's to see, by the event's id.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final

from orchestrator.errors import AmendsError

SIGNATURE_HEADERS: Final = MappingProxyType(
    {"sandbox": "sandbox-signature", "stripe": "stripe-signature"}
)
"""The header that each gateway signs in."""

MAX_HEADER_CHARACTERS: Final = 2_000

_SECONDS: Final = re.compile(r"[0-9]{1,12}")
_MARK: Final = re.compile(r"[0-9a-f]{64}")


class WebhookError(AmendsError):
    """A delivery is refused, and nothing of it may be believed. Answer it with 400."""


class WebhookSignatureError(WebhookError):
    """No signature, a malformed one, or one that no valid secret made."""


class WebhookReplayError(WebhookError):
    """Signed with a valid secret, but too long ago or in the future."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSecret:
    """A secret, and until when it is accepted while another one takes its place."""

    value: str = field(repr=False)
    valid_until: datetime | None = None

    def __post_init__(self) -> None:
        if not self.value or not self.value.isascii():
            raise ValueError("a secret is ASCII and not empty: an empty one is everybody's")
        if self.valid_until is not None and self.valid_until.tzinfo is None:
            raise ValueError("valid_until needs a time zone")

    def is_valid(self, now: datetime) -> bool:
        return self.valid_until is None or now < self.valid_until


class WebhookVerifier:
    """Verifies raw bodies against one secret or several.

    Args:
        secrets: what the gateway signs with; a plain string is valid without an end.
        replay_window_seconds: how far a signature's time may be from ours, either way.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        secrets: str | WebhookSecret | Iterable[str | WebhookSecret],
        replay_window_seconds: int = 300,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        given = [secrets] if isinstance(secrets, str | WebhookSecret) else list(secrets)
        if not given:
            raise ValueError("a verifier without a secret would refuse everything")
        if replay_window_seconds <= 0:
            raise ValueError("replay_window_seconds must be positive")
        self._secrets = [
            each if isinstance(each, WebhookSecret) else WebhookSecret(value=each) for each in given
        ]
        self._window = timedelta(seconds=replay_window_seconds)
        self._clock = clock

    def verify(self, body: bytes, header: str | None) -> datetime:
        """Return when the body was signed, if a valid secret signed it within the window.

        Args:
            body: the bytes as they arrived; parsed and written again they are others.
            header: the value of the signature's header, or None where there was none.

        Raises:
            WebhookSignatureError: not from the gateway.
            WebhookReplayError: from the gateway, and stale or from the future.
        """
        seconds, marks = _parsed(header)
        now = datetime.fromtimestamp(self._clock(), UTC)
        if not self._is_signed(seconds.encode() + b"." + body, marks, now):
            raise WebhookSignatureError("no valid secret made this signature")
        age = now.timestamp() - int(seconds)
        if abs(age) > self._window.total_seconds():
            side = "too long ago" if age > 0 else "in the future"
            raise WebhookReplayError(f"signed {side}: {abs(age):.0f} s from now")
        return datetime.fromtimestamp(int(seconds), UTC)

    def _is_signed(self, message: bytes, marks: Sequence[str], now: datetime) -> bool:
        """Compare every mark with every valid secret's, so that time tells nothing of which."""
        found = False
        for secret in self._secrets:
            if not secret.is_valid(now):
                continue
            expected = hmac.new(secret.value.encode(), message, hashlib.sha256).hexdigest()
            for mark in marks:
                found |= hmac.compare_digest(expected, mark)
        return found


def _parsed(header: str | None) -> tuple[str, list[str]]:
    """The first time, in digits as it was signed, and every well-formed v1."""
    if not header:
        raise WebhookSignatureError("there is no signature")
    if len(header) > MAX_HEADER_CHARACTERS:
        raise WebhookSignatureError("the signature's header is too long")
    times: list[str] = []
    marks: list[str] = []
    for part in header.split(","):
        name, equals, value = part.strip(" ").partition("=")
        if not equals:
            raise WebhookSignatureError("the signature is not a list of scheme=value")
        if name == "t":
            times.append(value)
        elif name == "v1":
            marks.append(value)
    if not times or not _SECONDS.fullmatch(times[0]):
        raise WebhookSignatureError("the signature names no time in seconds")
    well_formed = [each for each in marks if _MARK.fullmatch(each)]
    if not well_formed:
        raise WebhookSignatureError("the signature has no v1 of 64 hex digits")
    return times[0], well_formed
