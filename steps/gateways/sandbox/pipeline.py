"""How a request meets its faults, its effect and its answer.

A request goes: received → faults before → *the effect, in one transaction, without giving way to
another request* → faults after → answer. Everything runs on one event loop, so "is this key in
flight?" and the claim of the key cannot be split. A key is in flight until its first answer is
kept; an answer that is merely slow on its way back no longer blocks the key.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from starlette.responses import Response

from steps.gateways.sandbox import wire
from steps.gateways.sandbox.connections import Connections, NoAnswer
from steps.gateways.sandbox.faults import FaultKind, FaultScript, Plan, Subject
from steps.gateways.sandbox.form import (
    INTERNAL_ERROR,
    KEY_IN_USE,
    RATE_LIMITED,
    UNAVAILABLE,
    Form,
)
from steps.gateways.sandbox.journal import Journal
from steps.gateways.sandbox.records import Answer, Received


class _DroppedError(Exception):
    """The connection is to be closed before the effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hold:
    order_reference: str | None
    released: asyncio.Event


class Pipeline:
    """Runs requests through the fault script. `hold` faults wait here until released."""

    def __init__(
        self, journal: Journal, faults: FaultScript, connections: Connections, *, logs: bool
    ) -> None:
        self._journal = journal
        self._faults = faults
        self._connections = connections
        self._logs = logs
        self._keys_in_flight: set[str] = set()
        self._holds: list[_Hold] = []

    async def run(
        self,
        received: Received,
        act: Callable[[Plan], Answer],
        *,
        form: Form,
        asked_key: str | None = None,
    ) -> Response:
        """Answer `received` with what `act` does, unless a fault answers for it in `form`.

        `asked_key` is the key that a lookup asks about, for rules that match on it.
        """
        if received.key in self._keys_in_flight:
            return self._respond(received, form.refusal(KEY_IN_USE))
        plan = self._faults.plan(
            Subject(
                operation=received.operation,
                order_reference=received.order_reference,
                reference=received.reference,
                key=received.key or asked_key,
                attempt=received.attempt,
            )
        )
        received.faults = tuple(kind.value for kind in plan)
        try:
            with self._in_flight(received.key):
                answer = await self._before(plan, received, form) or act(plan)
        except _DroppedError:
            return self._drop(received)
        except sqlite3.Error:  # a full disk, say: everything was rolled back
            self._journal.abandon(received)
            raise
        return await self._after(plan, received, answer, form)

    def release(self, order_reference: str | None) -> int:
        """Let held requests go on, all or those of one order, and return how many."""
        chosen = [h for h in self._holds if order_reference in {None, h.order_reference}]
        for hold in chosen:
            hold.released.set()
            self._holds.remove(hold)
        return len(chosen)

    async def _before(self, plan: Plan, received: Received, form: Form) -> Answer | None:
        """Refuse, hold, delay; then an answer in place of the effect, or None to go on."""
        if (rule := plan.get(FaultKind.RATE_LIMITED)) is not None:
            refused = form.refusal(RATE_LIMITED, vouches=True)
            return replace(refused, retry_after_seconds=rule.retry_after_seconds)
        await self._wait(plan, FaultKind.HOLD_BEFORE, FaultKind.SLOW_BEFORE, received)
        if FaultKind.DROP_BEFORE in plan:
            raise _DroppedError
        if (rule := plan.get(FaultKind.ERROR_BEFORE)) is not None:
            return form.refusal(UNAVAILABLE, vouches=rule.vouches)
        return None

    async def _after(self, plan: Plan, received: Received, answer: Answer, form: Form) -> Response:
        await self._wait(plan, FaultKind.HOLD_AFTER, FaultKind.SLOW_AFTER, received)
        if FaultKind.DROP_AFTER in plan:
            return self._drop(received)
        if FaultKind.ERROR_AFTER in plan:
            answer = form.refusal(INTERNAL_ERROR)
        return self._respond(received, answer)

    async def _wait(
        self, plan: Plan, hold: FaultKind, delay: FaultKind, received: Received
    ) -> None:
        if hold in plan or delay in plan:
            self._journal.flush()  # a request that stays open survives a kill of this process
        if hold in plan:
            held = _Hold(order_reference=received.order_reference, released=asyncio.Event())
            self._holds.append(held)
            await held.released.wait()
        if (rule := plan.get(delay)) is not None:
            await asyncio.sleep(rule.delay_ms / 1000)

    @contextmanager
    def _in_flight(self, key: str | None) -> Iterator[None]:
        if key is None:
            yield
            return
        self._keys_in_flight.add(key)
        try:
            yield
        finally:
            self._keys_in_flight.discard(key)

    def _respond(self, received: Received, answer: Answer) -> Response:
        self._finish(received, answer.status)
        return wire.response(answer)

    def _drop(self, received: Received) -> Response:
        self._finish(received, None)
        return NoAnswer(self._connections)

    def _finish(self, received: Received, status: int | None) -> None:
        self._journal.answered(received, status)
        if self._logs:
            line = wire.request_json(received, is_open=False)
            sys.stderr.write(json.dumps({"event": "sandbox.request_answered", **line}) + "\n")
