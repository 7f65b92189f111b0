"""The sagas that are parked, one for each way to be; named in AMENDS_SAGAS."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pydantic import BaseModel, field_validator

from orchestrator.child_sagas import child_saga
from orchestrator.closing import Close, Closing, HoldOn, Stop
from orchestrator.context import Effect
from orchestrator.definition import Retry, SagaDefinition, Step, step
from tests.advice.bank import BANK
from tests.ended_sagas import SHOP

TWICE = Retry(max_attempts=2, base=timedelta(milliseconds=1), cap=timedelta(milliseconds=2))
QUICK = timedelta(milliseconds=200)


class Order(BaseModel):
    """A payload that a newer model may not take any more."""

    amount: int = 1

    @field_validator("amount")
    @classmethod
    def is_taken(cls, value: int) -> int:
        if BANK.strict:
            raise ValueError("this model takes no such orders")
        return value


def _pay(ctx: Any) -> Effect:
    return BANK.act(ctx, "pay")


def _refund(ctx: Any) -> Effect:
    return BANK.act(ctx, "refund")


def _ship(ctx: Any) -> Effect:
    return BANK.act(ctx, "ship")


def _mail(ctx: Any) -> Effect:
    return BANK.act(ctx, "mail")


def _paying(**options: Any) -> Step:
    return step(
        "pay",
        _pay,
        compensation=_refund,
        **{
            "retry": TWICE,
            "undo_retry": TWICE,
            "probe_retry": TWICE,
            "timeout": QUICK,
            "max_crashes": 2,
            "lookup": BANK.look_up,
            **options,
        },
    )


def _shipping() -> Step:
    return step("ship", _ship, pivot=True, retry=TWICE, timeout=QUICK, max_crashes=2)


def _closing(closing: Closing) -> Close | HoldOn | Stop:
    """A refund that is pending is waited for until it was asked for: no time at all."""
    pending = [each.since for each in closing.movements if each.is_pending]
    if pending:
        return HoldOn(until=min(pending))
    return Close() if BANK.closes else Stop(question="The ledger does not know the order: why?")


def _saga(name: str, *steps: Step, **options: Any) -> SagaDefinition[Order]:
    return SagaDefinition(name=name, version=1, payload=Order, steps=steps, **options)


plain = _saga("plain", _paying(), _shipping(), closing=_closing)
asked = _saga(
    "asked",
    _paying(probe=lambda ctx: BANK.ask(ctx, "pay"), undo_probe=lambda ctx: BANK.ask(ctx, "refund")),
    _shipping(),
)
keyless = _saga("keyless", _paying(key_life=timedelta(0)), _shipping())
mailing = _saga(
    "mailing",
    _paying(),
    _shipping(),
    step("mail", _mail, retriable=True, retry=TWICE, timeout=QUICK),
)
parent = _saga("parent", child_saga("buy", plain, lambda _: {"amount": 1}))
ended = SHOP
