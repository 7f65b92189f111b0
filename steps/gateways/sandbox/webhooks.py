"""Tells endpoints what moved: at least once, in no promised order, until they say 2xx.

Announcements are made from the ledger after its commit, so nothing is announced that is not
durable, and nothing waits for anybody: an announcement may well arrive before the answer to the
request that caused it (a fault that delays the answer makes sure of it).
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from contextlib import suppress
from typing import Any, Final

import httpx2

from steps.gateways.sandbox.announcements import Announcements
from steps.gateways.sandbox.deliveries import (
    Deliveries,
    Delivery,
    DeliveryKind,
    Endpoint,
    EndpointForm,
)
from steps.gateways.sandbox.faults import FaultKind, FaultScript, Subject
from steps.gateways.sandbox.ledger import Ledger
from steps.gateways.sandbox.movements import Movement, Operation
from steps.gateways.sandbox.signature import signed

PAUSES_SECONDS: Final = (0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)
"""What passes before each new attempt; after the last the delivery is given up."""

SIGNATURE_HEADER: Final = {
    EndpointForm.SANDBOX: "sandbox-signature",
    EndpointForm.STRIPE: "stripe-signature",
}

_LONGEST_CALL_SECONDS: Final = 5.0
_AT_ONCE: Final = 16
_STALE_SECONDS: Final = 3600
_BATCH: Final = 500


class Webhooks:
    """Announces to every endpoint for as long as `run` runs."""

    def __init__(
        self,
        ledger: Ledger,
        deliveries: Deliveries,
        announcements: Announcements,
        faults: FaultScript,
    ) -> None:
        self._ledger = ledger
        self._deliveries = deliveries
        self._announcements = announcements
        self._faults = faults
        self._changed = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()
        ledger.on_commit = self._changed.set

    async def run(self) -> None:
        async with httpx2.AsyncClient(trust_env=False, timeout=_LONGEST_CALL_SECONDS) as http:
            while True:
                self._changed.clear()
                try:
                    self._tell_what_moved()
                    self._start_what_is_due(http)
                    pause = self._pause_seconds()
                except sqlite3.OperationalError:  # somebody holds the file; the ledger is intact
                    pause = PAUSES_SECONDS[0]
                try:
                    async with asyncio.timeout(pause):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    def _tell_what_moved(self) -> None:
        for endpoint in self._deliveries.endpoints():
            moved = self._ledger.movements_after(endpoint.told_seq, _BATCH)
            if moved:
                with self._ledger.transaction():
                    for movement in moved:
                        self._tell(endpoint, movement)
                    self._deliveries.told(endpoint, up_to=moved[-1].seq)

    def _tell(self, endpoint: Endpoint, movement: Movement) -> None:
        if self._body(endpoint, movement) is None:
            return
        plan = self._faults.plan(
            Subject(
                operation=Operation.NOTIFY,
                order_reference=movement.order_reference,
                reference=movement.reference,
                key=movement.key or None,
                attempt=1,
            )
        )
        now = time.time()
        late = plan.get(FaultKind.LATE_WEBHOOK)
        true_ones = 0 if FaultKind.LOST_WEBHOOK in plan else 1
        kinds = [DeliveryKind.TRUE] * (true_ones + (FaultKind.DUPLICATE_WEBHOOK in plan))
        kinds += [DeliveryKind.FORGED] * (FaultKind.FORGED_WEBHOOK in plan)
        kinds += [DeliveryKind.STALE] * (FaultKind.STALE_WEBHOOK in plan)
        for kind in kinds:
            at = now + late.delay_ms / 1000 if late else now
            self._deliveries.add(endpoint, movement.seq, kind, at=at)

    def _start_what_is_due(self, http: httpx2.AsyncClient) -> None:
        now = time.time()
        endpoints = {each.id: each for each in self._deliveries.endpoints()}
        for delivery in self._deliveries.due(now, limit=_AT_ONCE - len(self._under_way)):
            self._deliveries.started(delivery, until=now + _LONGEST_CALL_SECONDS + 1)
            task = asyncio.create_task(
                self._deliver(http, endpoints[delivery.endpoint_id], delivery)
            )
            self._under_way.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._changed.set()

    async def _deliver(
        self, http: httpx2.AsyncClient, endpoint: Endpoint, delivery: Delivery
    ) -> None:
        status = await self._status_of(http, endpoint, delivery)
        is_taken = status is not None and 200 <= status < 300  # noqa: PLR2004 - 2xx
        is_last = delivery.attempts >= len(PAUSES_SECONDS)
        goes_on = not (is_taken or is_last) and delivery.kind is DeliveryKind.TRUE
        now = time.time()
        next_at = now + PAUSES_SECONDS[delivery.attempts] if goes_on else None
        with suppress(sqlite3.OperationalError):  # not written down: then it is due again later
            self._deliveries.ended(delivery, status=status, at=now, next_at=next_at)

    async def _status_of(
        self, http: httpx2.AsyncClient, endpoint: Endpoint, delivery: Delivery
    ) -> int | None:
        (movement,) = self._ledger.movements_after(delivery.seq - 1, 1)
        body = json.dumps(self._body(endpoint, movement)).encode()
        now = int(time.time())
        at = now - _STALE_SECONDS if delivery.kind is DeliveryKind.STALE else now
        secrets = endpoint.secrets
        if delivery.kind is DeliveryKind.FORGED:
            secrets = tuple(f"not-{each}" for each in secrets)
        headers = {
            "content-type": "application/json",
            SIGNATURE_HEADER[endpoint.form]: signed(body, secrets, at=at),
        }
        try:
            return (await http.post(endpoint.url, content=body, headers=headers)).status_code
        except httpx2.HTTPError:
            return None

    def _body(self, endpoint: Endpoint, movement: Movement) -> dict[str, Any] | None:
        if endpoint.form is EndpointForm.STRIPE:
            return self._announcements.stripe(movement)
        return self._announcements.own(movement)

    def _pause_seconds(self) -> float | None:
        due_at = self._deliveries.next_due_at()
        if due_at is None or len(self._under_way) >= _AT_ONCE:
            return None  # what ends, or moves, wakes us
        return max(due_at - time.time(), 0)
