"""Sagas whose steps let a card number slip wherever one can: each place has a number of its own."""

from __future__ import annotations

import hashlib
import logging
import threading
import warnings
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from orchestrator.context import Effect, Movement, StepContext
from orchestrator.definition import Retry, SagaDefinition, step
from orchestrator.errors import Retriable, Terminal
from orchestrator.redaction.card_numbers import has_check_digit

CUT_AT = 500


class Order(BaseModel):
    """An order that holds whatever a caller puts into it."""

    order_id: str
    note: Any = None


IN_LOGS = (
    *("log.event", "log.field", "log.int", "log.repr", "log.args", "log.bad_args"),
    *("log.warning", "log.traceback", "log.thread"),
)
IN_OUTCOMES = (
    *("result", "result.int", "result.text", "result.name", "reference", "movement"),
    *("error.message", "error.code", "details", "details.int", "error.database"),
    *("error.terminal", "error.parked", "undo.error", "undo.result"),
)
IN_MESSAGES = ("message.payload", "message.key", "message.unknown", "message.garbage")
PLACES = (*IN_LOGS, *IN_OUTCOMES, "error.cut", *IN_MESSAGES)


def card(place: str) -> str:
    """The card number that is only ever put into one place."""
    digits = int.from_bytes(hashlib.sha256(place.encode()).digest(), "big") % 10**11
    body = f"4539{digits:011}"
    return next(body + last for last in "0123456789" if has_check_digit(body + last))


def grouped(place: str) -> str:
    """The same, as it is printed on a card."""
    number = card(place)
    return " ".join(number[start : start + 4] for start in range(0, 16, 4))


class Payer:
    """Something that shows its card when it is printed."""

    def __repr__(self) -> str:
        return f"Payer(card={card('log.repr')}, cvv=987)"


def tell(context: StepContext[Order]) -> Effect:
    """Log in every way there is, and return a card number in every part of the result."""
    theirs = logging.getLogger("theirs")
    event = f"paying with {card('log.event')}"
    context.logger.warning(event, card=card("log.field"))
    context.logger.warning("more", number=int(card("log.int")), cvv="987", payer=Payer())
    theirs.warning("paying with %s", grouped("log.args"))
    theirs.warning("paying with %d", card("log.bad_args"))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"paying with {card('log.warning')}", stacklevel=1)
    try:
        raise ValueError(card("log.traceback"))
    except ValueError:
        theirs.exception("theirs")
        context.logger.exception("ours")
    thread = threading.Thread(target=_fail)
    thread.start()
    thread.join()
    return Effect(
        value={
            "card": {"number": card("result"), "cvv": "987"},
            "int": int(card("result.int")),
            "text": f"paid with {grouped('result.text')}",
            card("result.name"): True,
        },
        reference=card("reference"),
        movements=[
            Movement(kind="authorize", amount_minor=1, currency="EUR", reference=card("movement"))
        ],
    )


def _fail() -> None:
    raise ValueError(card("log.thread"))


def see(context: StepContext[Order]) -> dict[str, Any]:
    """Return what a step in place sees of the step before."""
    if context.attempt == 1:
        raise Retriable(
            f"busy: {card('error.message')}",
            code=card("error.code"),
            details={"card": card("details"), "deep": [{"n": int(card("details.int"))}]},
        )
    return {"seen": context.results["tell"]}


def cut(context: StepContext[Order]) -> None:
    """Raise what the log shortens, in the middle of the number."""
    if context.attempt == 1:
        raise ValueError("x" * (CUT_AT - 10) + card("error.cut"))


def write(context: StepContext[Order]) -> None:
    """Have Postgres itself repeat a row."""
    assert context.connection is not None
    if context.attempt == 1:
        context.connection.exec_driver_sql(
            "CREATE TEMP TABLE payer (card text CHECK (card = '')) ON COMMIT DROP"
        )
        context.connection.exec_driver_sql(
            "INSERT INTO payer VALUES (%(card)s)", {"card": card("error.database")}
        )


def decline(context: StepContext[Order]) -> None:
    """End the saga's road forward, for some."""
    if context.payload.note == "decline":
        raise Terminal(f"declined {card('error.terminal')}", code="declined", decisive=True)


def undo(context: StepContext[Order]) -> dict[str, str]:
    """Fail once, then undo."""
    if context.attempt == 1:
        raise Retriable(card("undo.error"))
    return {"undone": card("undo.result")}


def pass_the_pivot(_: StepContext[Order]) -> None:
    """From here on there is no way back."""


def give_up(_: StepContext[Order]) -> None:
    """Park the saga."""
    raise Terminal(f"nothing can reach {card('error.parked')}", decisive=True)


SOON = Retry(base=timedelta(milliseconds=20), cap=timedelta(milliseconds=50))

LEAKY = SagaDefinition(
    name="leaky",
    version=1,
    payload=Order,
    attributes=("order_id",),
    steps=[
        step("tell", tell, compensation=undo, retry=SOON, undo_retry=SOON),
        step("see", see, read_only=True, retry=SOON),
        step("cut", cut, compensation=undo, retry=SOON, undo_retry=SOON),
        step("write", write, transactional=True, no_compensation="none, a test", retry=SOON),
        step("decline", decline, no_compensation="none, it only declines", retry=SOON),
        step("ship", pass_the_pivot, pivot=True, retry=SOON),
        step("deliver", give_up, retriable=True, retry=SOON),
    ],
)
