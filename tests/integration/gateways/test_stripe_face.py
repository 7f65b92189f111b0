"""The sandbox's Stripe face, spoken to by Stripe's own client as anybody would."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
import stripe

from steps.gateways.http_calls import HttpCalls
from steps.gateways.sandbox.client import SandboxGateway
from steps.gateways.sandbox.judge import SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from steps.gateways.stripe.calls import client_within
from tests.integration.gateways.calls import LONG, authorize

FAKE_KEY = "sk_test_not_a_real_key"
CARD = "pm_card_visa"


@pytest.fixture
def v1(sandbox: SandboxProcess) -> Iterator[Any]:
    calls = HttpCalls(longest=timedelta(seconds=30))
    client = client_within(calls, api_key=FAKE_KEY, base_url=sandbox.base_url, timeout_seconds=LONG)
    yield client.v1
    calls.close()


def create(v1: Any, order: str, *, key: str | None = None, **more: object) -> Any:
    asked = {
        "amount": 1000,
        "currency": "eur",
        "capture_method": "manual",
        "payment_method": CARD,
        "confirm": True,
        "metadata": {"order_reference": order},
        **more,
    }
    return v1.payment_intents.create(asked, {"idempotency_key": key} if key else None)


# Making and confirming.


def test_an_intent_is_made_first_and_confirmed_later(
    v1: Any, judge: SandboxJudge, order: str
) -> None:
    made = create(v1, order, confirm=False)
    assert made.status == "requires_confirmation"
    assert judge.totals_of(order) is None

    confirmed = v1.payment_intents.confirm(made.id)

    assert (confirmed.id, confirmed.status) == (made.id, "requires_capture")
    assert confirmed.amount_capturable == 1000
    totals = judge.totals_of(order)
    assert totals is not None
    assert totals.authorizations_count == 1
    with pytest.raises(stripe.InvalidRequestError) as refused:
        v1.payment_intents.confirm(made.id)
    assert refused.value.code == "payment_intent_unexpected_state"


def test_an_intent_without_a_card_gets_one_when_it_is_confirmed(v1: Any, order: str) -> None:
    made = create(v1, order, confirm=False, payment_method="")
    assert made.status == "requires_payment_method"
    assert made.last_payment_error is None

    assert v1.payment_intents.confirm(made.id, {"payment_method": CARD}).status == (
        "requires_capture"
    )


def test_a_declined_intent_can_be_confirmed_with_another_card(v1: Any, order: str) -> None:
    with pytest.raises(stripe.CardError) as declined:
        create(v1, order, payment_method="pm_card_chargeDeclinedInsufficientFunds")
    body: Any = declined.value.json_body
    said = body["error"]
    assert (said["code"], said["decline_code"]) == ("card_declined", "insufficient_funds")
    assert said["payment_intent"]["status"] == "requires_payment_method"

    confirmed = v1.payment_intents.confirm(said["payment_intent"]["id"], {"payment_method": CARD})

    assert confirmed.status == "requires_capture"
    assert confirmed.last_payment_error is None


def test_a_challenge_has_a_page_only_with_an_address_to_return_to(v1: Any, order: str) -> None:
    card = "pm_card_authenticationRequired"
    with_page = create(v1, order, payment_method=card, return_url="https://shop.example/paid")
    without = create(v1, order, payment_method=card)

    assert with_page.status == without.status == "requires_action"
    assert with_page.next_action.redirect_to_url.url.endswith(with_page.id)
    assert without.next_action.type == "use_stripe_sdk"


def test_a_cancellation_keeps_its_reason(v1: Any, order: str) -> None:
    made = create(v1, order)

    canceled = v1.payment_intents.cancel(made.id, {"cancellation_reason": "duplicate"})

    assert (canceled.status, canceled.cancellation_reason) == ("canceled", "duplicate")


def test_without_an_amount_everything_is_taken_and_given_back(v1: Any, order: str) -> None:
    made = create(v1, order)

    taken = v1.payment_intents.capture(made.id)
    back = v1.refunds.create({"payment_intent": made.id})

    assert (taken.amount_received, back.amount, back.status) == (1000, 1000, "succeeded")
    with pytest.raises(stripe.InvalidRequestError) as refused:
        v1.refunds.create({"payment_intent": made.id})
    assert refused.value.code == "charge_already_refunded"


# Keys.


def test_a_key_replays_and_says_so(v1: Any, order: str) -> None:
    first = create(v1, order, key=f"{order}k")
    again = create(v1, order, key=f"{order}k")

    assert again.id == first.id
    assert "idempotent-replayed" not in first.last_response.headers
    assert again.last_response.headers["idempotent-replayed"] == "true"
    with pytest.raises(stripe.IdempotencyError):
        create(v1, order, key=f"{order}k", amount=2000)


def test_without_a_key_nothing_is_replayed(sandbox: SandboxProcess, order: str) -> None:
    form = {
        "amount": 1000,
        "currency": "eur",
        "capture_method": "manual",
        "payment_method": CARD,
        "confirm": "true",
        "metadata[order_reference]": order,
    }
    made = [
        httpx2.post(
            f"{sandbox.base_url}/v1/payment_intents",
            data=form,
            headers={"authorization": f"Bearer {FAKE_KEY}"},
            trust_env=False,
        ).json()["id"]
        for _ in range(2)
    ]

    assert len(set(made)) == 2


# What is refused before the key is looked at.


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"surprise": 1}, "parameter_unknown", "surprise"),
        ({"amount": 0}, "parameter_invalid_integer", "amount"),
        ({"amount": "12.5"}, None, "amount"),
        ({"currency": "xxx"}, None, "amount"),
        ({"currency": "isk", "amount": 1001}, None, "amount"),
        ({"currency": "kwd", "amount": 1001}, None, "amount"),
        ({"capture_method": "automatic"}, None, "capture_method"),
        ({"metadata": {"k" * 41: "v"}}, None, f"metadata.{'k' * 41}.[key]"),
    ],
)
def test_a_request_in_the_wrong_shape_is_refused(
    v1: Any, order: str, change: dict[str, object], code: str | None, param: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        create(v1, order, key=f"{order}k", **change)

    assert (refused.value.http_status, refused.value.code) == (400, code)
    assert refused.value.param == param
    assert create(v1, order, key=f"{order}k").status == "requires_capture"


@pytest.mark.parametrize(
    "key", ["", "Bearer sk_live_no", "Bearer pk_test_no", "Basic c2tfdGVzdA=="]
)
def test_only_test_keys_are_taken(sandbox: SandboxProcess, key: str) -> None:
    for method, path in (("POST", "/v1/refunds"), ("GET", "/v1/events")):
        answer = httpx2.request(
            method, f"{sandbox.base_url}{path}", headers={"authorization": key}, trust_env=False
        )

        assert answer.status_code == 401


# Questions.


def test_lists_begin_with_the_newest_and_go_on_by_pages(v1: Any, order: str) -> None:
    made = [create(v1, f"{order}{number}").id for number in range(5)]
    v1.payment_intents.capture(made[0])
    refunds = [v1.refunds.create({"payment_intent": made[0], "amount": 1}).id for _ in range(5)]

    def every(service: Any, **asked: object) -> list[str]:
        return [each.id for each in service.list({"limit": 2, **asked}).auto_paging_iter()]

    assert every(v1.payment_intents)[:5] == made[::-1]
    assert every(v1.refunds)[:5] == refunds[::-1]
    assert every(v1.refunds, payment_intent=made[0]) == refunds[::-1]
    assert every(v1.refunds, payment_intent=made[1]) == []
    told = every(v1.events, types=["refund.created"])[:5]
    assert [v1.events.retrieve(each).data.object["id"] for each in told] == refunds[::-1]
    assert every(v1.payment_intents, created={"lt": 1_000_000_000}) == []
    assert v1.refunds.retrieve(refunds[0]).payment_intent == made[0]


def test_metadata_is_searched_by_all_or_by_any(v1: Any, order: str) -> None:
    red = create(v1, order, metadata={"order_reference": order, "colour": "red"})
    blue = create(v1, order, metadata={"order_reference": order, "colour": "blue"})

    def found(query: str) -> list[str]:
        return [each.id for each in v1.payment_intents.search({"query": query}).data]

    this_order = f"metadata['order_reference']:'{order}'"
    assert found(this_order) == [blue.id, red.id]
    assert found(f"{this_order} AND metadata['colour']:'red'") == [red.id]
    assert found(f"metadata['colour']:\"no\" OR {this_order}") == [blue.id, red.id]
    with pytest.raises(stripe.InvalidRequestError):
        found("status:'succeeded'")
    with pytest.raises(stripe.InvalidRequestError):
        found(f"{this_order} AND {this_order} OR {this_order}")


def test_a_search_goes_on_by_pages(v1: Any, order: str) -> None:
    made = [create(v1, order).id for _ in range(3)]

    pages = v1.payment_intents.search(
        {"query": f"metadata['order_reference']:'{order}'", "limit": 2}
    )

    assert [each.id for each in pages.auto_paging_iter()] == made[::-1]


def test_payments_of_the_other_form_are_not_stripes(
    v1: Any, gateway: SandboxGateway, order: str
) -> None:
    payment = authorize(gateway, order)

    with pytest.raises(stripe.InvalidRequestError) as refused:
        v1.payment_intents.retrieve(payment.reference)
    assert (refused.value.http_status, refused.value.code) == (404, "resource_missing")
    with pytest.raises(stripe.InvalidRequestError):
        v1.payment_intents.cancel(payment.reference)
    assert payment.reference not in {each.id for each in v1.payment_intents.list().data}


@pytest.mark.parametrize("missing", ["payment_intents", "refunds", "events"])
def test_what_is_not_there_is_missing(v1: Any, missing: str) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        getattr(v1, missing).retrieve("pi_nothing")

    assert (refused.value.http_status, refused.value.code) == (404, "resource_missing")
