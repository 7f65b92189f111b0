"""Secrets that are known by their shape: API keys, bearer tokens, passwords of URLs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_SHAPES: Final[tuple[tuple[str, re.Pattern[str]], ...]] = (
    # What must be in a text for the pattern to be tried; group 1 is the secret. The possessive `+`
    # keeps long words linear.
    ("k_live_", re.compile(r"[sr]k_live_([0-9A-Za-z]{8,}+)")),
    ("k_test_", re.compile(r"[sr]k_test_([0-9A-Za-z]{8,}+)")),
    ("whsec_", re.compile(r"whsec_([0-9A-Za-z+/=_-]{8,}+)")),
    (
        "earer",
        re.compile(r"[bB]earer[ :=]{1,3}((?=[A-Za-z._~+/-]{0,64}[0-9=])[0-9A-Za-z._~+/=-]{8,}+)"),
    ),
    (
        "uthorization",
        re.compile(
            r"[aA]uthorization[\"'\\\s:=]{1,8}(?:Basic|Digest|Token|[aA]pi[kK]ey) {1,3}"
            r"([^\s\"'\\,;]{4,}+)"
        ),
    ),
    (
        "eyJ",
        re.compile(
            r"(?<![0-9A-Za-z_-])(eyJ[0-9A-Za-z_-]{8,}+\.[0-9A-Za-z_-]{8,}+[0-9A-Za-z_.-]*+)"
        ),
    ),
    ("://", re.compile(r"://[^\s/:@\"']{0,128}:((?!\[REDACTED|password@)[^\s/@\"']{1,256})@")),
)


def secret_keys(text: str) -> Iterator[tuple[int, int]]:
    """Find the secrets of a text, as (start, end)."""
    for hint, pattern in _SHAPES:
        if hint in text:
            for match in pattern.finditer(text):
                yield match.span(1)
