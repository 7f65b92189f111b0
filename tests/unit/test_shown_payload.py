"""What of a payload may be shown."""

from __future__ import annotations

from orchestrator.shown_payload import HIDDEN, shown
from steps.checkout import checkout

PAYLOAD = {"order_id": "A-1", "units": 1, "payment_method": "tok_ok"}


def test_a_field_that_its_model_does_not_print_is_hidden() -> None:
    assert shown(PAYLOAD, checkout) == {"order_id": "A-1", "units": 1, "payment_method": HIDDEN}


def test_who_pays_is_hidden_whole() -> None:
    payer = {"email": "ada@example.org", "ip": "203.0.113.9", "card_country": "DE"}

    assert shown({**PAYLOAD, "payer": payer}, checkout)["payer"] == HIDDEN


def test_of_an_unknown_definition_nothing_is_shown() -> None:
    assert set(shown(PAYLOAD, None).values()) == {HIDDEN}
