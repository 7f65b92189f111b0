"""The demo's orders: mixed and seeded, each with the end it must come to."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.state import State

CURRENCY = "EUR"
FRAUD_AMOUNT_MINOR = 9_000_000
"""Far above what anybody pays for CDs: blocked before any money is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong at the gateway with one order, once."""

    kind: str
    operation: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A sort of order: how many of a hundred, what it ends as, and what is particular about it."""

    name: str
    percent: int
    ends: State
    card: str | None = "tok_ok"
    amount_minor: int | None = None
    faults: tuple[Fault, ...] = ()


KINDS = (
    Kind(name="plain", percent=62, ends=State.COMPLETED),
    Kind(name="free", percent=6, ends=State.COMPLETED, card=None, amount_minor=0),
    Kind(name="declined", percent=9, ends=State.COMPENSATED, card="tok_declined"),
    Kind(
        name="insufficient funds",
        percent=5,
        ends=State.COMPENSATED,
        card="tok_insufficient_funds",
    ),
    Kind(
        name="blocked as fraud",
        percent=5,
        ends=State.COMPENSATED,
        amount_minor=FRAUD_AMOUNT_MINOR,
    ),
    Kind(
        name="refused by the carrier",
        percent=3,
        ends=State.COMPENSATED,
        faults=(Fault(kind="refuse", operation="ship"),),
    ),
    Kind(
        name="answer lost while holding the money",
        percent=3,
        ends=State.COMPLETED,
        faults=(Fault(kind="drop_after", operation="authorize"),),
    ),
    Kind(
        name="answer lost while taking the money",
        percent=3,
        ends=State.COMPLETED,
        faults=(Fault(kind="error_after", operation="capture"),),
    ),
    Kind(
        name="gateway down for a moment",
        percent=2,
        ends=State.COMPLETED,
        faults=(Fault(kind="error_before", operation="authorize", options={"vouches": True}),),
    ),
    Kind(
        name="gateway busy",
        percent=2,
        ends=State.COMPLETED,
        faults=(Fault(kind="rate_limited", operation="capture"),),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order, as the shop would start it."""

    kind: Kind
    payload: Mapping[str, Any]

    @property
    def key(self) -> str:
        return str(self.payload["order_id"])


def mixed(count: int, seed: int) -> list[Order]:
    """Return `count` orders, the same ones for the same seed."""
    dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
    kinds = [kind for kind in KINDS for _ in range(max(1, count * kind.percent // 100))]
    kinds = (kinds + [KINDS[0]] * count)[:count]
    dice.shuffle(kinds)
    return [_order(number, kind, dice) for number, kind in enumerate(kinds, start=1)]


def single(order_id: str, *, card: str = "tok_ok", amount_minor: int = 1_990) -> dict[str, Any]:
    """Return the payload of one order of one CD."""
    return {
        "order_id": order_id,
        "customer_id": "C-1",
        "units": 1,
        "amount_minor": amount_minor,
        "currency": CURRENCY,
        "payment_method": card,
    }


def _order(number: int, kind: Kind, dice: random.Random) -> Order:
    amount = dice.randint(500, 9_900) if kind.amount_minor is None else kind.amount_minor
    payload: dict[str, Any] = {
        "order_id": f"D-{number:03}",
        "customer_id": f"C-{dice.randint(1, 60)}",
        "units": dice.randint(1, 3),
        "amount_minor": amount,
        "currency": CURRENCY,
    }
    if kind.card is not None:
        payload["payment_method"] = kind.card
    return Order(kind=kind, payload=payload)
