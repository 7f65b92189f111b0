"""Signs webhooks the way of Stripe: ``t=<seconds>,v1=<HMAC-SHA256 of "<seconds>.<body>">``.

While a secret is being changed there are two of them, and one ``v1`` for each.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable


def signed(body: bytes, secrets: Iterable[str], *, at: int) -> str:
    """The header for a body sent at `at`, in seconds since the epoch."""
    message = str(at).encode() + b"." + body
    marks = (hmac.new(each.encode(), message, hashlib.sha256).hexdigest() for each in secrets)
    return ",".join([f"t={at}", *(f"v1={mark}" for mark in marks)])
