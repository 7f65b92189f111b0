r"""Text as its reader will see it, at the same length, so that what is found can be cut out.

A card number does not always arrive as ASCII digits: full-width digits, no-break spaces and
invisible characters come from documents, ``%20`` from URLs, ``\u00a0`` from JSON inside of text,
``\xa0`` and ``\t`` from what `repr` wrote.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

FILL: Final = "\u200b"
"""Stands where a reader sees nothing. It is a zero-width space itself."""

_FOLDED: Final = re.compile(
    r"%(?![Bb][0-9]{8})[0-9A-Fa-f]{2}"  # but not the beginning of a magnetic track, %B4242…
    r"|\\(?:u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|t)"
    r"|[^\x00-\x7f](?<=[\d\s\xad\xb7\u2010-\u2015\u2024\u2212\ufe52\ufe58\ufe63\uff0d\uff0e"
    r"\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff])"
)
_ESCAPES: Final = ("%", "\\u", "\\x", "\\t")
_DOTS: Final = frozenset("\xb7\u2024\ufe52\uff0e")
_MINUS: Final = "\u2212"


def folded(text: str) -> str:
    """Return `text` with every digit, space, dash and dot in its ASCII form, at its place.

    What is invisible, and what an escape is longer than the character it stands for, becomes
    `FILL`. The same object comes back where there is nothing to fold.
    """
    if text.isascii() and not any(each in text for each in _ESCAPES):
        return text
    return _FOLDED.sub(lambda match: _plain(match.group()), text)


@lru_cache(maxsize=4096)
def _plain(found: str) -> str:
    """Return a character, or an escape of one, at its own length."""
    if found == "\\t":
        return FILL + " "
    if len(found) > 1:
        return FILL * (len(found) - 1) + _plain(chr(int(found.lstrip("%\\ux"), 16)))
    if found.isascii():
        return found
    if found in _DOTS:
        return "."
    digit = unicodedata.decimal(found, None)
    if digit is not None:
        return str(digit)
    if found.isspace():
        return " "
    return "-" if found == _MINUS or unicodedata.category(found) == "Pd" else FILL
