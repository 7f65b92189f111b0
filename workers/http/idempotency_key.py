"""Reads the header ``Idempotency-Key`` (draft-ietf-httpapi-idempotency-key-header).

By the draft its value is a string of Structured Fields (RFC 9651): ``"8e03978e-40d5"``, in quotes.
Most clients send the key bare, so that is read too where it cannot be mistaken: both forms of a key
are the same key. Parameters behind the string are refused: none is defined.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

HEADER = "Idempotency-Key"

_STRING = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,200})"')
_BARE = re.compile(r"[A-Za-z0-9._:~+/=@-]{1,200}")

PATTERN = f"^(?:{_STRING.pattern}|{_BARE.pattern})$"
"""As OpenAPI tells it."""


def idempotency_key(values: Sequence[str]) -> str | None:
    """Return the key, or None when there is not exactly one, and well-formed.

    Args:
        values: of every header line of that name.
    """
    if len(values) != 1:
        return None
    text = values[0].strip(" \t")
    if quoted := _STRING.fullmatch(text):
        return re.sub(r"\\(.)", r"\1", quoted[1])
    return text if _BARE.fullmatch(text) else None
