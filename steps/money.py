"""Money as integer minor units and an ISO 4217 currency, so that no amount is ever a float."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation, localcontext
from types import MappingProxyType
from typing import Final, Self

LARGEST_MINOR: Final = 2**63 - 1
"""Largest magnitude of an amount: what a Postgres `bigint` holds."""

_NO_MINOR_UNIT: Final = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_TWO_DECIMALS: Final = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD "
    "CAD CDF CHE CHF CHW CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS "
    "GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD "
    "LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN "
    "PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL "
    "THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG"
)
_THREE_DECIMALS: Final = "BHD IQD JOD KWD LYD OMR TND"
_FOUR_DECIMALS: Final = "CLF UYW"

EXPONENTS: Final[Mapping[str, int]] = MappingProxyType(
    {
        currency: exponent
        for exponent, currencies in (
            (0, _NO_MINOR_UNIT),
            (2, _TWO_DECIMALS),
            (3, _THREE_DECIMALS),
            (4, _FOUR_DECIMALS),
        )
        for currency in currencies.split()
    }
)
"""Decimals of every ISO 4217 currency that can be paid in (metals and test codes are not)."""

_DECIMAL_TEXT: Final = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?", re.ASCII)


class MoneyError(ValueError):
    """An amount or a currency that no money can have; the message says which."""


class CurrencyMismatchError(MoneyError):
    """Two amounts of different currencies were added, subtracted or ordered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """An amount in minor units (cents, yen, fils) of one currency.

    May be zero or negative: a difference is money too. Who asks a gateway for it checks
    `is_positive`. Equality compares currency and amount; order needs one currency.

    Raises:
        MoneyError: the amount is not an integer in range or the currency is not in `EXPONENTS`.
    """

    minor: int
    currency: str

    def __post_init__(self) -> None:
        if type(self.minor) is not int:  # bool is an int, a numpy integer is not JSON
            raise MoneyError(f"an amount is an int of minor units, not {type(self.minor).__name__}")
        if not -LARGEST_MINOR <= self.minor <= LARGEST_MINOR:
            raise MoneyError("the amount does not fit in 63 bits")
        exponent_of(self.currency)

    @classmethod
    def of(cls, amount: str | Decimal | int, currency: str) -> Self:
        """Money from an amount in major units: ``Money.of("12.34", "EUR")``.

        Never rounds: more decimals than the currency has are refused, unless they are zeros.

        Raises:
            MoneyError: the amount is a float, no plain number, or finer than the currency.
        """
        scaled = _exact(_decimal(amount), exponent_of(currency))
        return cls(minor=scaled, currency=currency)

    @classmethod
    def zero(cls, currency: str) -> Self:
        return cls(minor=0, currency=currency)

    @classmethod
    def total(cls, amounts: Iterable[Money], currency: str) -> Self:
        """The sum of `amounts`, all in `currency`; zero of it when there are none."""
        total = cls.zero(currency)
        for amount in amounts:
            total += amount
        return total

    @property
    def is_zero(self) -> bool:
        return self.minor == 0

    @property
    def is_positive(self) -> bool:
        return self.minor > 0

    @property
    def major(self) -> Decimal:
        """The amount in major units, exact: 1234 EUR cents are ``Decimal("12.34")``."""
        return Decimal(self.minor).scaleb(-EXPONENTS[self.currency])

    def in_units_of(self, exponent: int) -> int:
        """The amount as an integer at another exponent, for a gateway with its own.

        Stripe wants ISK with two decimals: ``Money(minor=500, currency="ISK").in_units_of(2)``
        is 50000.

        Raises:
            MoneyError: the amount is not whole at that exponent.
        """
        return _exact(self.major, exponent)

    def __add__(self, other: Money) -> Self:
        return type(self)(minor=self.minor + self._minor_of(other, "add"), currency=self.currency)

    def __sub__(self, other: Money) -> Self:
        return type(self)(
            minor=self.minor - self._minor_of(other, "subtract"), currency=self.currency
        )

    def __neg__(self) -> Self:
        return type(self)(minor=-self.minor, currency=self.currency)

    def __mul__(self, count: int) -> Self:
        if type(count) is not int:
            raise MoneyError(f"money is multiplied by an int, not {type(count).__name__}")
        return type(self)(minor=self.minor * count, currency=self.currency)

    def __lt__(self, other: Money) -> bool:
        return self.minor < self._minor_of(other, "compare")

    def __le__(self, other: Money) -> bool:
        return self.minor <= self._minor_of(other, "compare")

    def __gt__(self, other: Money) -> bool:
        return self.minor > self._minor_of(other, "compare")

    def __ge__(self, other: Money) -> bool:
        return self.minor >= self._minor_of(other, "compare")

    def __str__(self) -> str:
        return f"{self.major:f} {self.currency}"

    def _minor_of(self, other: Money, verb: str) -> int:
        if other.currency != self.currency:
            raise CurrencyMismatchError(f"cannot {verb} {self.currency} and {other.currency}")
        return other.minor


def exponent_of(currency: str) -> int:
    """How many decimals `currency` has by ISO 4217 (JPY 0, USD 2, KWD 3).

    Raises:
        MoneyError: no such currency; codes are three upper-case letters.
    """
    try:
        return EXPONENTS[currency]
    except (KeyError, TypeError):
        raise MoneyError(f"unknown currency {str(currency)[:12]!r}") from None


def _decimal(amount: str | Decimal | int) -> Decimal:
    match amount:
        case bool() | float():
            raise MoneyError(f"an amount is a str, Decimal or int, not {type(amount).__name__}")
        case str() if not _DECIMAL_TEXT.fullmatch(amount):
            raise MoneyError(f"not a plain decimal amount: {amount[:40]!r}")
        case Decimal() if not amount.is_finite():
            raise MoneyError("not a finite amount")
        case _:
            return Decimal(amount)


def _exact(major: Decimal, exponent: int) -> int:
    with localcontext() as context:
        context.prec = 80  # wide enough that scaling never rounds what the check must see
        try:
            scaled = major.scaleb(exponent)
            whole = scaled.to_integral_value()
        except InvalidOperation:
            raise MoneyError("the amount is out of range") from None
        if abs(whole) > LARGEST_MINOR:
            raise MoneyError("the amount does not fit in 63 bits")
        if scaled != whole:
            raise MoneyError(f"{str(major)[:60]} is finer than {exponent} decimals")
        return int(whole)
