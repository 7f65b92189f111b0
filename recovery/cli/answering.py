"""``amends probe``, ``mark-done``, ``mark-not-done``, ``skip``: answering for one step."""

from __future__ import annotations

import json

import click

from orchestrator.entries import Json
from recovery.cli.session import Session, pass_session
from recovery.cli.verb_options import by_of, carry_out, movement, take_back_option, verb_options
from recovery.operator.verbs import Confirm, MarkDone, MarkNotDone, Probe, Skip, Withdraw

_STEP = click.option("--step", required=True, help="The step that is answered for.")


@click.command("probe")
@verb_options
@_STEP
@take_back_option()
@pass_session
def probe_command(
    session: Session,
    saga: str,
    reason: str,
    actor: str | None,
    seen: int | None,
    dry_run: bool,
    step: str,
    take_back: bool,
) -> None:
    """Have the other side asked now whether a step, or its undo, took effect.

    For a parked saga of whose step nobody knows, if the step has a probe. What is answered settles
    the step, and the saga goes on.

    ID is an id, the beginning of one, or a key.
    """
    verb = Probe(step=step, take_back=take_back)
    carry_out(session, saga, verb, by_of(reason, actor), seen=seen, dry_run=dry_run)


@click.command("mark-done")
@verb_options
@_STEP
@click.option("--reference", help="The other side's name for it; needed unless an undo is meant.")
@click.option("--result", metavar="JSON", help="What later steps find as the step's result.")
@click.option(
    "--moved",
    multiple=True,
    metavar="KIND:AMOUNT:CURRENCY",
    help="Money that the step moved, like capture:1990:EUR; may be repeated. Not of an undo.",
)
@take_back_option()
@pass_session
def mark_done_command(
    session: Session,
    saga: str,
    reason: str,
    actor: str | None,
    seen: int | None,
    dry_run: bool,
    step: str,
    reference: str | None,
    result: str | None,
    moved: tuple[str, ...],
    take_back: bool,
) -> None:
    """Say that a step took effect or, in a saga that is taken back, that it is undone.

    The reference is looked up: where the other side has what the saga did, it counts; where it has
    something else, it is refused; where it has nothing or cannot be asked, a second person has to
    confirm it. Refused while the step runs, and until nothing that it sent can still arrive; the
    refusal says when.

    ID is an id, the beginning of one, or a key.
    """
    verb = MarkDone(
        step=step,
        reference=reference,
        result=_json(result),
        movements=[movement(each) for each in moved],
        take_back=take_back,
    )
    carry_out(session, saga, verb, by_of(reason, actor), seen=seen, dry_run=dry_run)


@click.command("mark-not-done")
@verb_options
@_STEP
@take_back_option()
@pass_session
def mark_not_done_command(
    session: Session,
    saga: str,
    reason: str,
    actor: str | None,
    seen: int | None,
    dry_run: bool,
    step: str,
    take_back: bool,
) -> None:
    """Say that a step, or its undo, did not take effect and never will.

    It is tried again under a new idempotency key. The other side is asked first: where it has it
    after all, this is refused; where it cannot be asked, a second person has to confirm it. Refused
    while the step runs, and until nothing that it sent can arrive.

    ID is an id, the beginning of one, or a key.
    """
    verb = MarkNotDone(step=step, take_back=take_back)
    carry_out(session, saga, verb, by_of(reason, actor), seen=seen, dry_run=dry_run)


@click.command("skip")
@verb_options
@_STEP
@pass_session
def skip_command(
    session: Session,
    saga: str,
    reason: str,
    actor: str | None,
    seen: int | None,
    dry_run: bool,
    step: str,
) -> None:
    """Say that a step, or its undo, is not needed: it counts as done.

    Later steps find no result of it. One person may skip a step past the pivot that failed for
    good, and an undo of which the other side shows that nothing is left to do; else a second person
    has to confirm it. The undo of what moved money cannot be skipped.

    ID is an id, the beginning of one, or a key.
    """
    carry_out(session, saga, Skip(step=step), by_of(reason, actor), seen=seen, dry_run=dry_run)


@click.command("confirm")
@verb_options
@click.option(
    "--assertion", type=click.IntRange(min=1), metavar="SEQ", help="Which, where several wait."
)
@pass_session
def confirm_command(
    session: Session,
    saga: str,
    reason: str,
    actor: str | None,
    seen: int | None,
    dry_run: bool,
    assertion: int | None,
) -> None:
    """Stand by what somebody else said of a saga and nobody could look up; then it counts.

    Within 24 hours, while the saga stands as it stood, and by another person: another database role
    of the operators, or another user of the operating system. The saga can end only as resolved
    then, by word of both.

    ID is an id, the beginning of one, or a key.
    """
    verb = Confirm(assertion=assertion)
    carry_out(session, saga, verb, by_of(reason, actor), seen=seen, dry_run=dry_run)


@click.command("withdraw")
@verb_options
@click.option(
    "--assertion", type=click.IntRange(min=1), metavar="SEQ", help="Which, where several wait."
)
@pass_session
def withdraw_command(
    session: Session,
    saga: str,
    reason: str,
    actor: str | None,
    seen: int | None,
    dry_run: bool,
    assertion: int | None,
) -> None:
    """Take back what was said of a saga and is not confirmed yet.

    ID is an id, the beginning of one, or a key.
    """
    verb = Withdraw(assertion=assertion)
    carry_out(session, saga, verb, by_of(reason, actor), seen=seen, dry_run=dry_run)


def _json(text: str | None) -> Json:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"it is not JSON: {error}", param_hint="--result") from None
