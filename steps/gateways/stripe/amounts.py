"""Stripe's integers for our money: mostly ISO 4217's minor units, with exceptions of its own.

ISK and UGX have no minor unit, yet Stripe wants two decimals that must be 00; MGA has one, and
Stripe has none. Three-decimal currencies are taken in steps of ten.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from steps.money import Money, MoneyError, exponent_of

EXPONENTS: Final[Mapping[str, int]] = MappingProxyType({"ISK": 2, "MGA": 0, "UGX": 2})
"""Decimals of the currencies in which Stripe differs from ISO 4217."""

_STEP_OF_THREE_DECIMALS: Final = 10


def in_stripe_units(amount: Money) -> int:
    """The integer that Stripe means by this amount.

    Raises:
        MoneyError: Stripe cannot express it.
    """
    exponent = _exponent(amount.currency)
    units = amount.in_units_of(exponent)
    if exponent == 3 and units % _STEP_OF_THREE_DECIMALS:  # noqa: PLR2004 - fils and the like
        raise MoneyError(f"{amount.currency} is charged in steps of ten")
    return units


def from_stripe_units(units: int, currency: str) -> Money:
    """The money that Stripe means by this integer. `currency` is as Stripe writes it, in any case.

    Raises:
        MoneyError: not an integer, no such currency, or decimals that must be zero and are not.
    """
    if type(units) is not int:
        raise MoneyError(f"an amount is an int of minor units, not {type(units).__name__}")
    code = currency.upper()
    return Money.of(Decimal(units).scaleb(-_exponent(code)), code)


def _exponent(currency: str) -> int:
    return EXPONENTS.get(currency, exponent_of(currency))
