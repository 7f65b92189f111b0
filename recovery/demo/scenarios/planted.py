"""Card numbers to be planted, one per place, and the search for them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from orchestrator.redaction.card_numbers import has_check_digit

_PREFIX: Final = "4539"
_CLUE: Final = 10
"""So many leading digits give a number away, also one that was cut in two."""

_PLANTED: Final = re.compile(rf"{_PREFIX}(?:[\s._-]*[0-9]){{{_CLUE - len(_PREFIX)}}}")
_NO_DIGIT: Final = re.compile(r"[^0-9]+")
_BYTES: Final = re.compile(r"\\x((?:[0-9a-f]{2})+)")


def card(place: str) -> str:
    """Return the card number that is planted in one place only; no card was ever issued with it."""
    digits = int.from_bytes(hashlib.sha256(place.encode()).digest()) % 10**11
    body = f"{_PREFIX}{digits:011}"
    return next(body + last for last in "0123456789" if has_check_digit(body + last))


def grouped(place: str) -> str:
    """Return the same as it is printed on a card."""
    number = card(place)
    return " ".join(number[start : start + 4] for start in range(0, len(number), 4))


def masked(place: str) -> str:
    """Return what may be seen of it."""
    return "*" * 12 + card(place)[12:]


def found_in(text: str, places: Iterable[str]) -> set[str]:
    """Return the places whose card numbers are in a text, however the digits are grouped."""
    clues = {card(each)[:_CLUE]: each for each in places}
    seen = {_NO_DIGIT.sub("", each) for each in _PLANTED.findall(text)}
    return {place for clue, place in clues.items() if clue in seen}


def readable(row: str) -> str:
    """Return a row's text with its byte columns decoded: Postgres shows them in hex."""
    return _BYTES.sub(lambda found: bytes.fromhex(found[1]).decode(errors="replace"), row)
