"""A payer passes a challenge, and the gateway says so: truly, again, and to be believed or not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from orchestrator.entries import SignalReceived
from orchestrator.state import State
from orchestrator.storage.database import Database
from recovery.demo.scenarios.evidence import (
    OrderEvidence,
    all_lines,
    challenged,
    of_order,
    waits,
)
from recovery.demo.scenarios.order import PRICE_MINOR, UNITS, level_of, stocked
from recovery.demo.scenarios.over_http import deliver
from recovery.demo.scenarios.table import Expectation, in_ledger, in_logs, in_saga_log, in_stock
from recovery.demo.stage import WEBHOOK_SECRET, DemoError, Stage, wait_for
from steps.gateways.sandbox.judge import DeliveryRow
from steps.storage.webhook_inbox import WebhookOutcome, WebhookRows

TITLE: Final = "webhooks: accepted, duplicate, tampered"
KEY: Final = "S-5"
TAMPERED: Final = "evt_tampered"
DELIVERY_SECONDS: Final = 20.0
ACKNOWLEDGED: Final = 200
REFUSALS: Final = 3
CHALLENGED, AUTHORIZED, CAPTURED = 1, 4, 1
"""How many deliveries of each event there are; of one the true, its duplicate, two by others."""

EVERYTHING: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEvidence:
    """What came of one event that was delivered in every way.

    Attributes:
        waited: the state of the saga before the payer had answered.
        holders: the workers that held it then.
        put_aside: of its article, then: on hand and reserved.
        statuses: by the kind of delivery (true, forged, stale), the answers of the server.
        tampered: the answer to a signed body of which a digit was changed.
        kept: how often the event is in the inbox, with what came of it.
        kept_tampered: how often the tampered one is.
        refused: what the server's log says of the deliveries that it refused.
    """

    order: OrderEvidence
    waited: State
    holders: Sequence[str]
    put_aside: tuple[int, int]
    statuses: Mapping[str, Sequence[int | None]]
    tampered: int
    kept: Sequence[str | None]
    kept_tampered: int
    refused: Sequence[int]


def play(stage: Stage) -> list[Expectation]:
    """Have the gateway deliver twice, somebody forge and repeat, and somebody tamper."""
    judge = stage.judge
    endpoint = judge.announce_to(stage.webhook_url, WEBHOOK_SECRET)
    payload = stocked(stage, KEY, payment_method="tok_challenge")
    started = stage.client.start("checkout", payload, key=KEY)
    waits(stage, started.id)
    waited = stage.client.get(started.id).state
    holders = [each.owner for each in stage.reads.attempts(started.id) if each.owner]
    level = level_of(stage, KEY)
    _await_deliveries(stage, endpoint, CHALLENGED)
    inbox = WebhookRows(Database(stage.engine))
    wait_for(lambda: inbox.counts() == (0, 0), DELIVERY_SECONDS)  # else they would tell the news
    last = max((each.id for each in judge.deliveries()), default=0)
    for fault in ("duplicate_webhook", "forged_webhook", "stale_webhook"):
        judge.script(fault, order_reference=KEY)
    judge.end_challenge(challenged(stage, KEY), passed=True)
    order = of_order(stage, started.id)
    _await_deliveries(stage, endpoint, CHALLENGED + AUTHORIZED + CAPTURED)
    deliveries = [each for each in judge.deliveries(since=last) if each.endpoint_id == endpoint]
    event = next(each.event_id for each in deliveries if each.kind == "forged")
    tampered = _tamper(stage)
    judge.stop_announcing(endpoint)
    wait_for(
        lambda: inbox.counts() == (0, 0) and len(_refused(stage)) >= REFUSALS, DELIVERY_SECONDS
    )
    rows = inbox.find(processed_too=True, limit=EVERYTHING)
    return expectations(
        WebhookEvidence(
            order=order,
            waited=waited,
            holders=holders,
            put_aside=(level.on_hand, level.reserved),
            statuses=_statuses(deliveries, event),
            tampered=tampered,
            kept=[each.outcome for each in rows if each.event_id == event],
            kept_tampered=sum(each.event_id == TAMPERED for each in rows),
            refused=_refused(stage),
        )
    )


def expectations(found: WebhookEvidence) -> list[Expectation]:
    """Compare what was found with what was promised."""
    order = found.order
    return [
        in_saga_log(
            "waits for the payer, held by no worker",
            seen=(found.waited, list(found.holders)),
            expected=(State.WAITING, []),
        ),
        in_saga_log(
            "one signal, one transition, completed",
            seen=(
                sum(isinstance(each, SignalReceived) for each in order.entries),
                order.outcomes("authorize_payment"),
                order.state,
            ),
            expected=(1, ["waits for payment_authenticated", "succeeded"], State.COMPLETED),
        ),
        in_saga_log(
            "the event is kept once, of the tampered one nothing",
            seen=(list(found.kept), found.kept_tampered),
            expected=([WebhookOutcome.TOLD], 0),
        ),
        in_ledger(
            "delivered twice: acknowledged twice",
            seen=list(found.statuses["true"]),
            expected=[ACKNOWLEDGED, ACKNOWLEDGED],
        ),
        in_ledger(
            "forged, an hour old, tampered: refused with 400",
            seen=(list(found.statuses["forged"]), list(found.statuses["stale"]), found.tampered),
            expected=([400], [400], 400),
        ),
        in_ledger(
            "one hold and one charge of 19.90 EUR",
            seen=order.moved(),
            expected=[("authorize", PRICE_MINOR), ("capture", PRICE_MINOR), ("ship", 0)],
        ),
        in_stock(
            "put aside while it waits, then shipped",
            seen=(found.put_aside, (order.on_hand, order.reserved)),
            expected=((UNITS, 1), (UNITS - 1, 0)),
        ),
        in_logs(
            "the wait and the end",
            seen=order.events("step.waiting", "step.failed", "step.unknown", "saga.completed"),
            expected=["step.waiting", "saga.completed"],
        ),
        in_logs("each of the three refusals", seen=list(found.refused), expected=[400] * REFUSALS),
    ]


def _await_deliveries(stage: Stage, endpoint: int, count: int) -> None:
    """Return when so many deliveries to the endpoint are over.

    Raises:
        DemoError: they are not within `DELIVERY_SECONDS`.
    """

    def over() -> int:
        ours = (each for each in stage.judge.deliveries() if each.endpoint_id == endpoint)
        return sum(not each.is_open for each in ours)

    if not wait_for(lambda: over() >= count, DELIVERY_SECONDS):
        raise DemoError(f"only {over()} of {count} webhooks are delivered")


def _tamper(stage: Stage) -> int:
    """Sign an event as the gateway does, change one digit of it, and deliver it."""
    payment = {
        "reference": challenged(stage, KEY),
        "order_reference": KEY,
        "key": "tampered",
        "amount_minor": PRICE_MINOR,
    }
    event = {"id": TAMPERED, "type": "payment.succeeded", "payment": payment}
    body = json.dumps(event | {"created_at": datetime.now(UTC).isoformat()}).encode()
    changed = body.replace(str(PRICE_MINOR).encode(), str(PRICE_MINOR + 1).encode())
    return deliver(stage, changed, signed_body=body).status


def _refused(stage: Stage) -> list[int]:
    """What the log of the server says of deliveries that it did not take."""
    return [
        int(each["status"])
        for each in all_lines(stage.directory)
        if each.get("event") == "http.answered"
        and str(each.get("route")).startswith("/webhooks")
        and each["status"] != ACKNOWLEDGED
    ]


def _statuses(deliveries: Sequence[DeliveryRow], event: str) -> dict[str, list[int | None]]:
    """The server's answers to one event, by who delivered it."""
    found: dict[str, list[int | None]] = {"true": [], "forged": [], "stale": []}
    for each in deliveries:
        if each.event_id == event:
            found[each.kind].append(each.status)
    return found
