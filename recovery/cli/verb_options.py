"""What all operator verbs take: the saga, who and why, what was seen, and only looking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from orchestrator.context import Movement
from recovery.cli.actor import this_person
from recovery.cli.finding import find_saga
from recovery.cli.preview_page import as_json, as_text
from recovery.cli.session import Session
from recovery.operator.previews import Preview
from recovery.operator.verbs import By, Verb

F = TypeVar("F", bound=Callable[..., Any])

KINDS = ("authorize", "capture", "void", "refund")


def verb_options(function: F) -> F:
    """Add what every verb for one saga takes: which saga, and the options of acting."""
    return click.argument("saga", metavar="ID")(acting_options(function))


def acting_options(function: F) -> F:
    """Add who acts and why, what was seen, and whether only to look."""
    options = [
        click.option("--reason", required=True, help="Kept in the saga's log."),
        click.option("--actor", help="What you call yourself; who you are is found out."),
        click.option(
            "--seen",
            metavar="SEQ",
            type=click.IntRange(min=1),
            help="Act only if the saga still is at this seq, as `amends show` printed it.",
        ),
        click.option(
            "--dry-run",
            is_flag=True,
            help="Write nothing: show what would be written, what would follow, and the money.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def take_back_option() -> Callable[[F], F]:
    """Return the option that has a parked saga taken back instead of going on."""
    return click.option(
        "--take-back", is_flag=True, help="Have the saga taken back then, instead of going on."
    )


def by_of(reason: str, actor: str | None) -> By:
    """Return who acts, and why."""
    if not reason.strip():
        raise click.UsageError("--reason needs a reason; it is kept in the saga's log")
    return By(actor=actor or this_person(), reason=reason)


def carry_out(
    session: Session, saga: str, verb: Verb, by: By, *, seen: int | None, dry_run: bool
) -> None:
    """Do the verb to one saga, or show it, and print what came of it."""
    found = find_saga(session.reads, saga)
    act = session.operator.preview if dry_run else session.operator.act
    done: Preview = act(found.id, verb, by, seen=seen)
    session.output.record(as_json(done, dry_run=dry_run), as_text(done, dry_run=dry_run))


def movement(text: str) -> Movement:
    """Return the movement that ``capture:1990:EUR`` means."""
    kind, _, rest = text.partition(":")
    amount, _, currency = rest.partition(":")
    if kind not in KINDS or not amount.isdecimal() or not currency:
        raise click.BadParameter(
            f"{text!r} is not of the form KIND:AMOUNT:CURRENCY, kinds {', '.join(KINDS)}, the "
            "amount in minor units: capture:1990:EUR",
            param_hint="--moved",
        )
    return Movement(kind=kind, amount_minor=int(amount), currency=currency.upper())
