"""A payer's answer comes by webhook, whoever dies on the way and whoever looks into it."""

from __future__ import annotations

import signal
from uuid import UUID

import pytest

from orchestrator.entries import SignalReceived
from orchestrator.state import State
from orchestrator.storage.database import Database
from steps.storage.webhook_inbox import KeptWebhook, WebhookRows
from tests.deployment import Deployment, Member, Order, payload
from tests.worker_processes import until

SECRET = "whsec_of_these_tests"
KEY = "o-1"


@pytest.fixture
def shop(deployment: Deployment) -> Deployment:
    deployment.variables |= {
        "sandbox_webhook_secrets": SECRET,
        "sweep_seconds": 0.5,
        "workers_sweep": False,
    }
    return deployment


def start_endpoint(shop: Deployment, *dies: str) -> Member:
    """Start an endpoint that is told of everything from now on."""
    endpoint = shop.start("endpoint", ["-m", "tests.acceptance.keeps_webhooks", *dies])
    until(lambda: "listening at" in endpoint.log, seconds=60, what="the endpoint")
    shop.judge.announce_to(endpoint.log.partition("listening at ")[2].split()[0], SECRET)
    return endpoint


def waits_for_its_payer(shop: Deployment) -> UUID:
    order = Order(payload=payload(KEY, payment_method="tok_challenge"), ends=State.COMPLETED)
    [saga_id] = shop.start_orders([order])
    until(lambda: shop.client.get(saga_id).state is State.WAITING, what="the wait")
    return saga_id


def payer_answers(shop: Deployment) -> None:
    [opened] = [row for row in shop.judge.movements() if row.operation == "authorize"]
    assert opened.payment_reference is not None
    shop.judge.end_challenge(opened.payment_reference, passed=True)


def rows(shop: Deployment) -> list[KeptWebhook]:
    return WebhookRows(Database(shop.engine)).find(processed_too=True, limit=100)


def goes_on(shop: Deployment, saga_id: UUID) -> None:
    """The checkout ends well, and its saga heard its payer once."""
    until(lambda: shop.client.get(saga_id).state is State.COMPLETED, seconds=60, what="the end")
    entries = [each.entry for each in shop.entries(saga_id)]
    assert sum(isinstance(each, SignalReceived) for each in entries) == 1
    assert shop.violations({State.COMPLETED: 1}) == []


@pytest.mark.parametrize(
    ("moment", "action"),
    [
        ("after", "webhook.commit"),  # kept, and the sender hears nothing
        ("before", "webhook.claim"),  # acknowledged
        pytest.param("after", "webhook.claim", marks=pytest.mark.long),  # about to look
        ("after", "signal.commit"),  # the saga was told
        pytest.param("before", "webhook.end", marks=pytest.mark.long),
    ],
)
def test_an_endpoint_that_is_killed_loses_nothing(
    shop: Deployment, moment: str, action: str
) -> None:
    shop.start_worker()
    saga_id = waits_for_its_payer(shop)
    endpoint = start_endpoint(shop, moment, action)
    payer_answers(shop)
    assert endpoint.wait_end() == -signal.SIGKILL
    [kept] = rows(shop)
    assert kept.processed_at is None

    shop.execute("UPDATE shop.webhook SET due_at = clock_timestamp()")  # the claim's minute is over
    shop.start_sweeper(0.5)

    goes_on(shop, saga_id)
    until(lambda: rows(shop)[0].processed_at is not None, what="the end of the webhook")


@pytest.mark.parametrize("who", ["threads", "prefork", "sweeper", "once", "beat"])
def test_whoever_sweeps_looks_into_webhooks(shop: Deployment, who: str) -> None:
    sweeps_itself = who in ("threads", "prefork")
    pool = who if sweeps_itself else "threads"
    shop.start_worker(pool=pool, workers_sweep=sweeps_itself)
    saga_id = waits_for_its_payer(shop)
    start_endpoint(shop)
    payer_answers(shop)
    match who:
        case "sweeper":
            shop.start_sweeper(0.5)
        case "beat":
            shop.start_beat()
        case "once":
            until(lambda: bool(rows(shop)), what="the delivery")
            assert shop.start("once", ["-m", "recovery.cli", "sweep", "--once"]).wait_end() == 0
        case _:
            pass

    goes_on(shop, saga_id)
