"""The same inbox over Stripe: its form, its ids, its refunds."""

import json
from collections.abc import Iterator

import pytest

from orchestrator.entries import SignalReceived, UndoFailed
from orchestrator.state import State
from steps.gateways.sandbox.judge import SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from tests.integration.gateways.receiver import Receiver
from tests.integration.webhooks.world import World, world


@pytest.fixture
def shop(
    database: str, sandbox: SandboxProcess, judge: SandboxJudge, post: Receiver
) -> Iterator[World]:
    with world(
        database, sandbox, judge, post, gateway="stripe", stripe_key="sk_test_not_a_real_key"
    ) as made:
        yield made


def test_a_payer_who_answers_stripes_challenge_wakes_the_saga(shop: World, order: str) -> None:
    saga_id = shop.start(order, "pm_card_authenticationRequired")
    shop.runs_until(saga_id, State.WAITING)
    intent = shop.told(order, "payment_intent.requires_action").told["data"]["object"]["id"]
    shop.judge.end_challenge(intent, passed=True)

    shop.delivers(shop.told(order, "payment_intent.amount_capturable_updated"), "stripe")
    assert shop.inbox.process_due().told == 1

    shop.runs_until(saga_id, State.COMPLETED)
    [signal] = [e.entry for e in shop.log(saga_id) if isinstance(e.entry, SignalReceived)]
    assert signal.dedup_id.startswith("stripe:evt_")


def test_every_event_of_a_whole_order_is_understood_and_none_is_news(
    shop: World, order: str
) -> None:
    saga_id = shop.start(order, "pm_card_visa")
    shop.runs_until(saga_id, State.COMPLETED)
    shop.post.until(lambda: "payment_intent.succeeded" in shop.post.types_of(order))
    for heard in shop.post.heard:
        shop.delivers(heard, "stripe")

    report = shop.inbox.process_due()

    assert report.nothing_new >= 2
    assert (report.told, report.put_off, report.parked) == (0, 0, 0)
    ignored = {row.kind for row in shop.rows() if row.outcome == "ignored"}
    assert ignored <= {"payment_intent.created"}


def test_a_refund_that_stripe_reports_as_failed_is_made_again(shop: World, order: str) -> None:
    shop.judge.script("refuse", operation="ship", order_reference=order, times=None)
    shop.judge.script("refund_pending", operation="refund", order_reference=order, times=1)
    saga_id = shop.start(order, "pm_card_visa")
    heard = None
    while heard is None:
        shop.works(saga_id)
        heard = next((e for e in shop.post.heard if e.told["type"] == "refund.created"), None)
    for _ in range(20):
        shop.works(saga_id)
    shop.judge.end_refund(heard.told["data"]["object"]["id"], failed=True)
    failed = shop.post.until(
        lambda: next((e for e in shop.post.heard if e.told["type"] == "refund.failed"), None)
    )

    shop.delivers(failed, "stripe")
    assert shop.inbox.process_due().told == 1

    shop.runs_until(saga_id, State.COMPENSATED)
    assert sum(isinstance(e.entry, UndoFailed) for e in shop.log(saga_id)) == 1
    assert shop.totals(order).is_clean


def test_a_refund_of_another_products_charge_is_no_question(shop: World) -> None:
    """It shares the account, and has charges of the old kind, which no payment intent made."""
    refund = {"id": "re_1", "object": "refund", "payment_intent": None, "status": "succeeded"}
    told = {"id": "evt_of_others", "object": "event", "type": "refund.created", "created": 1}
    body = json.dumps({**told, "data": {"object": refund}}).encode()

    receipt = shop.delivers_body(body, gateway="stripe")

    assert shop.inbox.process_due().nothing_new == 1
    assert "not one of ours" in (shop.row_of(receipt).note or "")
