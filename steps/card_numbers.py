"""Tells a card number from the many other long numbers that an order carries.

A card number is a brand's prefix, that brand's length and a right check digit, in one run of
digits or in groups parted by single spaces, dashes or dots. All three are needed: the check digit
alone would take one order number in ten for a card.
"""

from __future__ import annotations

import re
from typing import Final

_RUN: Final = re.compile(r"(?<![0-9])[0-9](?:[ .\-]?[0-9]){12,18}(?![0-9])", re.ASCII)

_BRAND: Final = re.compile(
    r"4[0-9]{12}(?:[0-9]{3})?(?:[0-9]{3})?"  # Visa: 13, 16 or 19
    r"|5[1-5][0-9]{14}"  # Mastercard
    r"|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"  # Mastercard since 2017
    r"|3[47][0-9]{13}"  # American Express
    r"|3(?:0[0-5]|[68][0-9])[0-9]{11}"  # Diners Club
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12}"  # JCB
    r"|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12}"  # Discover
    r"|62[0-9]{14,17}",  # UnionPay
    re.ASCII,
)


def holds_card_number(text: str) -> bool:
    """Whether `text` is, or has within it, something that would pay."""
    runs = (re.sub(r"[^0-9]", "", found.group()) for found in _RUN.finditer(text))
    return any(_BRAND.fullmatch(digits) and _has_check_digit(digits) for digits in runs)


def _has_check_digit(digits: str) -> bool:
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + position % 2)
        total += value - 9 if value > 9 else value  # noqa: PLR2004 - the digits of 10 to 18 add up
    return total % 10 == 0
