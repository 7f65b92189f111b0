"""A saga whose steps spill card numbers wherever one can; the demo's workers run it."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, Final

from pydantic import BaseModel

from orchestrator.context import Effect, StepContext
from orchestrator.definition import Retry, SagaDefinition, step
from orchestrator.errors import Retriable, Terminal
from recovery.demo.scenarios.planted import card, grouped

IN_LOGS: Final = (
    *("an event", "a field", "a number", "a stdlib argument", "a traceback"),
    *("a retriable error", "a terminal error"),
)
IN_TABLES: Final = ("a result", "a reference", "a retriable error", "details", "a terminal error")
SPILLED: Final = (*dict.fromkeys((*IN_LOGS, *IN_TABLES)), "a row that Postgres refuses")


class Order(BaseModel):
    """What the saga is about."""

    order_id: str


Context = StepContext[Order]


def talk(context: Context) -> Effect:
    """Log in every way there is, and return card numbers."""
    event = f"paying with {card('an event')}"
    context.logger.warning(event, card=card("a field"), number=int(card("a number")))
    theirs = logging.getLogger("theirs")
    theirs.warning("paying with %s", grouped("a stdlib argument"))
    try:
        int(card("a traceback") + "?")
    except ValueError:
        theirs.exception("it failed")
    return Effect(value={"paid_with": grouped("a result")}, reference=card("a reference"))


def stumble(context: Context) -> None:
    """Fail once, with a card number in every part of the error."""
    if context.attempt == 1:
        raise Retriable(f"busy with {card('a retriable error')}", details={"card": card("details")})


def write(context: Context) -> None:
    """Have Postgres itself refuse, and repeat, a row with a card number."""
    if context.attempt == 1:
        connection: Any = context.connection
        connection.exec_driver_sql(
            "CREATE TEMP TABLE payer (card text CHECK (card = '')) ON COMMIT DROP"
        )
        connection.exec_driver_sql(
            "INSERT INTO payer VALUES (%(card)s)", {"card": card("a row that Postgres refuses")}
        )


def refuse(_: Context) -> None:
    """End the saga's road forward."""
    raise Terminal(f"declined: {card('a terminal error')}", decisive=True)


def undo(_: Context) -> None:
    """Take nothing back, for nothing was done."""


SOON: Final = Retry(base=timedelta(milliseconds=20), cap=timedelta(milliseconds=50))

SPILLING: Final = SagaDefinition(
    name="spilling",
    version=1,
    payload=Order,
    steps=[
        step("talk", talk, compensation=undo, retry=SOON),
        step("stumble", stumble, compensation=undo, retry=SOON),
        step("write", write, transactional=True, no_compensation="none, a demo", retry=SOON),
        step("refuse", refuse, compensation=undo, pivot=False, retry=SOON),
    ],
)
