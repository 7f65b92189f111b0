"""What of a payload may be shown."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel, Field, RootModel, SecretStr
from typing_extensions import TypeAliasType, TypedDict

from orchestrator.shown_payload import HIDDEN, shown
from steps.checkout import checkout
from tests.histories import doing, saga

OPEN = {"order_id": "A-1", "customer_id": "C-7", "units": 1, "amount_minor": 1, "currency": "EUR"}
PAYLOAD = {**OPEN, "payment_method": "tok_ok"}


def test_a_field_that_its_model_does_not_print_is_hidden() -> None:
    assert shown(PAYLOAD, checkout) == {**OPEN, "payment_method": HIDDEN}


def test_who_pays_is_hidden_whole() -> None:
    payer = {"email": "ada@example.org", "ip": "203.0.113.9", "card_country": "DE"}

    assert shown({**PAYLOAD, "payer": payer}, checkout)["payer"] == HIDDEN


def test_of_an_unknown_definition_nothing_is_shown() -> None:
    assert set(shown(PAYLOAD, None).values()) == {HIDDEN}


def test_of_what_its_definition_does_not_read_nothing_is_shown() -> None:
    assert set(shown({**PAYLOAD, "units": "none"}, checkout).values()) == {HIDDEN}


class Person(BaseModel):
    name: str
    email: str = Field(repr=False)


@dataclass
class Guest:
    name: str
    email: str = field(repr=False)


class Party(RootModel[list[Person]]):
    pass


class Table(TypedDict):
    host: Person


MaybePerson = TypeAliasType("MaybePerson", Person | None)


class Evening(BaseModel):
    guest: Guest
    party: Party
    table: Table
    payer: MaybePerson
    waiter: str | Person


class Booking(BaseModel):
    owner: Person
    guests: list[Person] = []
    by_room: dict[str, Person] | None = None
    pin: SecretStr | None = None


def test_secrets_of_models_within_the_payload_are_hidden_too() -> None:
    ada = {"name": "Ada", "email": "ada@example.org"}
    payload = {"owner": ada, "guests": [ada, ada], "by_room": {"7": ada, "8": ada}, "pin": "0000"}
    definition = saga(doing("book"), payload=Booking)

    hidden = {"name": "Ada", "email": HIDDEN}
    assert shown(payload, definition) == {
        "owner": hidden,
        "guests": [hidden, hidden],
        "by_room": {"7": hidden, "8": hidden},
        "pin": HIDDEN,
    }


def test_secrets_are_hidden_however_a_model_comes_into_the_payload() -> None:
    ada, hidden = {"name": "Ada", "email": "ada@example.org"}, {"name": "Ada", "email": HIDDEN}
    payload = {"guest": ada, "party": [ada], "table": {"host": ada}, "payer": ada, "waiter": "Bob"}
    definition = saga(doing("dine"), payload=Evening)

    assert shown(payload, definition) == {
        "guest": hidden,
        "party": [hidden],
        "table": {"host": hidden},
        "payer": hidden,
        "waiter": "Bob",
    }
