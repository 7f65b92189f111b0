"""What a checkout is started with, checked before anything of it is stored."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from steps.money import EXPONENTS, LARGEST_MINOR, Money

MAX_UNITS: Final = 10_000


def _known_currency(code: str) -> str:
    if code not in EXPONENTS:
        raise ValueError("not a currency of ISO 4217; use three upper-case letters, like EUR")
    return code


Name = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/#-]*$")
]
"""An identifier. The pattern has no room for e-mail addresses or names of people."""

Token = Annotated[str, Field(min_length=4, max_length=255, pattern=r"^[A-Za-z][A-Za-z0-9._:-]*$")]
"""A gateway's stand-in for a payment method. It begins with a letter, so no card number fits."""


def _an_ip_address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("not an IP address") from None  # the original repeats it
    return text


Email = Annotated[str, Field(max_length=254, pattern=r"^[^@\s]+@[^@\s]+$")]
Address = Annotated[str, Field(max_length=45), AfterValidator(_an_ip_address)]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
"""ISO 3166, two letters."""


class Payer(BaseModel):
    """What the shop knows of who pays, for the fraud rules; None is *not known*.

    Personal data: give what the rules need and no more. It is stored as long as the saga, and never
    shown or logged.

    Attributes:
        ip: the payer's address, IPv4 or IPv6.
        card_country: where the card was issued.
        billing_country: of the address that the payer typed.
        ip_country: where the payer's address is registered.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    email: Annotated[Email | None, Field(repr=False)] = None
    ip: Annotated[Address | None, Field(repr=False)] = None
    card_country: Country | None = None
    billing_country: Country | None = None
    ip_country: Country | None = None


class CheckoutPayload(BaseModel):
    """One order to be paid and shipped.

    Unknown fields are refused: everything here is stored for as long as the saga, and a field
    nobody knows is where a card number or an address slips in. Values are not converted either:
    ``"2"`` is not 2 units, and two spellings of an order would have two fingerprints.

    Attributes:
        amount_minor: price of the whole order in minor units of `currency`; 0 is a free order.
        currency: ISO 4217. There is no default: a wrong guess is a wrong charge.
        payment_method: the gateway's token, never a card number; only a free order goes without.
        payer: for the fraud rules; without it those about mailbox, address and countries are mute.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    order_id: Name
    customer_id: Name
    sku: Name = "cd"
    units: Annotated[int, Field(ge=1, le=MAX_UNITS)]
    amount_minor: Annotated[int, Field(ge=0, le=LARGEST_MINOR)]
    currency: Annotated[str, AfterValidator(_known_currency)]
    payment_method: Annotated[Token | None, Field(repr=False)] = None
    payer: Annotated[Payer | None, Field(repr=False)] = None

    @property
    def price(self) -> Money:
        return Money(minor=self.amount_minor, currency=self.currency)

    @property
    def is_free(self) -> bool:
        return self.amount_minor == 0

    @model_validator(mode="after")
    def _can_be_paid(self) -> Self:
        if self.payment_method is None and not self.is_free:
            raise ValueError("an order that is not free needs a payment_method")
        return self
