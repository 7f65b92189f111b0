"""The checkout as a value: its steps, what it may be started with, and its screening."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.definition import Kind
from orchestrator.definitions import Definitions
from orchestrator.entries import Recorded, SagaStarted, StepStarted, StepSucceeded
from orchestrator.errors import PayloadError
from orchestrator.folding import replay
from orchestrator.payloads import fingerprint, to_json, validated
from orchestrator.state_machine import decide
from steps.checkout import CheckoutPayload, checkout
from steps.payload import Payer

ORDER: dict[str, Any] = {
    "order_id": "order-1",
    "customer_id": "customer-1",
    "units": 2,
    "amount_minor": 2933,
    "currency": "EUR",
    "payment_method": "tok_ok",
}
FREE = {**ORDER, "amount_minor": 0, "payment_method": None}
VISA = "4242424242424242"


def order(**changes: object) -> CheckoutPayload:
    return CheckoutPayload.model_validate({**ORDER, **changes})


# The definition.


def test_the_steps_are_those_of_the_business_in_order() -> None:
    assert [each.name for each in checkout.steps] == [
        "reserve_inventory",
        "screen_fraud",
        "authorize_payment",
        "screen_authorization",
        "capture_payment",
        "create_shipment",
    ]


def test_the_parcel_is_the_point_of_no_return() -> None:
    assert checkout.pivot == "create_shipment"
    assert {each.kind for each in checkout.steps[:-1]} == {Kind.COMPENSATABLE}


def test_every_step_before_the_parcel_is_undone_or_says_why_not() -> None:
    for each in checkout.steps[:-1]:
        assert (each.compensation is None) != (each.no_compensation is None), each.name


def test_the_refund_spares_the_void() -> None:
    assert checkout.step("authorize_payment").undone_by == "capture_payment"


def test_a_call_fits_twice_into_every_step_that_calls_out() -> None:
    from steps import payment, shipment  # noqa: PLC0415 - beside its only use

    for name in ("authorize_payment", "capture_payment", "create_shipment"):
        assert 2 * max(payment.CALL, shipment.CALL) < checkout.step(name).timeout


def test_it_registers_by_name() -> None:
    assert Definitions([checkout]).latest("checkout") is checkout


@pytest.mark.parametrize(
    ("payload", "expected"),
    [(ORDER, "authorize_payment"), (FREE, "create_shipment")],
    ids=["paid", "free"],
)
def test_a_free_order_goes_from_its_screening_to_its_parcel(
    payload: dict[str, Any], expected: str
) -> None:
    moment = datetime(2026, 11, 24, tzinfo=UTC)
    model = CheckoutPayload.model_validate(payload)
    skipped = [each.name for each in checkout.steps if each.when and not each.when(model)]
    entries: list[Any] = [SagaStarted(payload=to_json(model), skipped=skipped)]
    for name in ("reserve_inventory", "screen_fraud"):
        entries += [
            StepStarted(step=name, direction="forward", attempt=1, owner="me"),
            StepSucceeded(step=name, direction="forward", attempt=1),
        ]
    state = replay(
        Recorded(seq=seq, at=moment, entry=entry) for seq, entry in enumerate(entries, start=1)
    )

    (run,) = decide(checkout, state, moment, "seed").runs

    assert run.step == expected


# What it may be started with.


def test_an_order_comes_back_from_the_log_as_it_was_given() -> None:
    stored = validated(checkout, ORDER)

    assert CheckoutPayload.model_validate(stored) == order()
    assert stored == {**ORDER, "sku": "cd", "payer": None}


def test_an_order_that_tells_nothing_of_its_payer_keeps_its_fingerprint() -> None:
    without = {name: value for name, value in ORDER.items() if name != "payer"}

    assert fingerprint(order()) == fingerprint(without)
    assert fingerprint(order(payer={"ip_country": "DE"})) != fingerprint(without)


def test_the_token_is_not_printed() -> None:
    assert "tok_ok" not in repr(order())


def test_the_payer_is_not_printed() -> None:
    payer = Payer(email="ada@example.org", ip="203.0.113.9", card_country="DE")

    assert "203" not in repr(payer) + repr(order(payer=payer))
    assert "ada" not in repr(payer) + repr(order(payer=payer))


@pytest.mark.parametrize(
    "wrong",
    [
        {"units": 0},
        {"units": 10_001},
        {"units": "2"},
        {"units": True},
        {"amount_minor": -1},
        {"amount_minor": 1.0},
        {"amount_minor": 2**63},
        {"currency": "eur"},
        {"currency": "XYZ"},
        {"order_id": ""},
        {"order_id": "o" * 65},
        {"order_id": "two words"},
        {"customer_id": "someone@example.com"},
        {"payment_method": None},
        {"payment_method": VISA},
        {"payment_method": "tok_" + VISA},
        {"payment_method": "tok_" + "x" * 300},
        {"order_id": VISA},
        {"customer_id": "c-4242-4242-4242-4242"},
        {"cvv": "123"},
        {"payer": {"name": "Ada"}},
        {"payer": {"email": "someone"}},
        {"payer": {"email": "two words@example.com"}},
        {"payer": {"email": "e" * 250 + "@example.com"}},
        {"payer": {"ip": "203.0.113"}},
        {"payer": {"ip": "203.0.113.0/24 example.com"}},
        {"payer": {"card_country": "de"}},
        {"payer": {"card_country": "DEU"}},
        {"payer": {"email": f"{VISA}@example.com"}},
    ],
    ids=str,
)
def test_what_does_not_belong_in_a_log_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(PayloadError) as caught:
        validated(checkout, {**ORDER, **wrong})

    assert VISA not in str(caught.value)
    assert "example.com" not in str(caught.value)


@pytest.mark.parametrize("missing", sorted(set(ORDER)))
def test_every_field_but_the_article_must_be_given(missing: str) -> None:
    with pytest.raises(ValidationError):
        CheckoutPayload.model_validate({k: v for k, v in ORDER.items() if k != missing})
