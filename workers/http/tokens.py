"""Bearer tokens: who may start sagas and look at them. Only their hashes are known here."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_ENTRY = re.compile(r"(?P<actor>[a-z0-9][a-z0-9._-]{0,63})=(?P<digest>[0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownToken:
    """A token by its SHA-256, and whose it is. Two of one actor: one replaces the other."""

    actor: str
    digest: str = field(repr=False)


def known_tokens(text: str | None) -> Sequence[KnownToken]:
    """Return the tokens that a text like ``shop=<64 hex digits> shop=<64 hex digits>`` names.

    Raises:
        ValueError: an entry is none of that form; it is not repeated.
    """
    found = []
    for number, entry in enumerate((text or "").split(), start=1):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise ValueError(f"entry {number} is not NAME=<SHA-256 of the token, 64 hex digits>")
        found.append(KnownToken(actor=match["actor"], digest=match["digest"]))
    return found


def actor_of(token: str, known: Sequence[KnownToken]) -> str | None:
    """Return whose token it is, or None; compared with every one, so that time tells nothing."""
    digest = hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
    actor = None
    for each in known:
        if hmac.compare_digest(digest, each.digest):
            actor = each.actor
    return actor
