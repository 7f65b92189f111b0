"""Which commands an operator is told to type: only such as would not be refused."""

from __future__ import annotations

import shlex
from datetime import timedelta

import click
import pytest

from orchestrator.entries import StepSucceeded
from orchestrator.state import State
from recovery.cli.program import amends
from recovery.operator.deciding import decided
from recovery.operator.evidence import question
from recovery.operator.recommending import Advice, recommended
from recovery.operator.verbs import By, MarkNotDone, Probe
from tests.histories import COMPENSATE, PROBE, PROBE_UNDO, History, doing, nothing, saga
from tests.operators import SAGA_ID, case_of

SHIP = doing("ship", pivot=True)
SHOP = saga(doing("reserve"), doing("pay"), SHIP)
FORGETFUL = saga(doing("reserve"), doing("pay", key_life=timedelta(0)), SHIP)
ASKABLE = saga(doing("reserve"), doing("pay", key_life=timedelta(0), probe=nothing), SHIP)
LONG = saga(doing("pay"), SHIP, doing("mail", retriable=True))


def advised(history: History) -> list[str]:
    """The verbs that are recommended, in order."""
    return [_short(each) for each in recommended(case_of(history))]


def _short(advice: Advice) -> str:
    words = shlex.split(advice.command)
    flags = [each for each in words if each == "--take-back"]
    return " ".join([words[1], *flags])


def unknown(definition: object = SHOP) -> History:
    history = History(definition).succeeds("reserve")  # type: ignore[arg-type]
    while history.visible is not State.STUCK:
        run = history.decision.runs[0]
        history.unknown("pay") if run.direction == "forward" else history.fails("pay", PROBE)
    return history.later(hours=1)


def undone(reference: str | None, movements: list[dict[str, object]] | None = None) -> History:
    history = History(SHOP).succeeds("reserve").claims("pay")
    history.records(
        StepSucceeded(
            step="pay", direction="forward", attempt=1, reference=reference, movements=movements
        )
    )
    return history.declined("ship").declined("pay", COMPENSATE).undoes("reserve").later(hours=1)


def test_an_unknown_whose_key_is_young_is_repeated_first() -> None:
    assert advised(unknown()) == [
        *("retry", "mark-done", "mark-not-done", "mark-not-done --take-back", "resolve")
    ]


def test_an_unknown_whose_key_is_old_is_never_repeated() -> None:
    assert advised(unknown(FORGETFUL)) == [
        *("mark-done", "mark-not-done", "mark-not-done --take-back", "resolve")
    ]


def test_an_unknown_that_can_be_asked_about_is_asked_about_first() -> None:
    assert advised(unknown(ASKABLE))[0] == "probe"


def kept(definition: object) -> History:
    """An undo whose failure the other side keeps for the key."""
    history = History(definition).succeeds("reserve", "pay").declined("ship")  # type: ignore[arg-type]
    while history.visible is State.COMPENSATING:
        run = history.decision.runs[0]
        if run.direction == PROBE_UNDO:
            history.probed("pay", PROBE_UNDO, landed=None)
        elif run.step == "reserve":
            history.undoes("reserve")
        else:
            history.unknown("pay", COMPENSATE, is_kept=True)
    return history.later(hours=1)


def test_an_undo_whose_answer_is_kept_is_not_repeated_first() -> None:
    assert advised(kept(SHOP)) == ["mark-done", "mark-not-done", "skip", "retry", "resolve"]


def test_an_undo_that_can_be_asked_about_is_asked_about_first() -> None:
    history = kept(saga(doing("reserve"), doing("pay", undo_probe=nothing), SHIP))
    assert advised(history)[0] == "probe"
    plan = decided(case_of(history), Probe(step="pay"), By(actor="ada", reason="it is back"))
    assert plan.decision is not None
    assert [run.direction for run in plan.decision.runs] == [PROBE_UNDO]


def test_a_step_whose_answer_is_kept_is_not_repeated_first() -> None:
    history = History(SHOP).succeeds("reserve")
    while history.visible is not State.STUCK:
        history.unknown("pay", is_kept=True)
    assert advised(history.later(hours=1))[0] == "mark-done"


def test_an_undo_is_tried_again_or_done_by_hand() -> None:
    history = History(SHOP).succeeds("reserve", "pay").declined("ship")
    for _ in range(3):
        history.fails("pay", COMPENSATE)
    history.undoes("reserve").later(hours=1)
    assert advised(history) == ["retry", "mark-done", "mark-not-done", "skip", "resolve"]


def test_an_undo_that_is_refused_for_good_is_done_by_hand_first() -> None:
    assert advised(undone("pay-1")) == ["mark-done", "mark-not-done", "skip", "retry", "resolve"]


def test_what_another_undo_would_undo_too_is_not_to_be_answered_for() -> None:
    definition = saga(doing("hold", undone_by="take"), doing("take"), SHIP)
    history = History(definition).succeeds("hold", "take").declined("ship")
    history.declined("take", COMPENSATE).declined("hold", COMPENSATE).later(hours=1)
    commands = [each.command for each in recommended(case_of(history))]
    assert any("--step take" in each for each in commands)
    assert not any("--step hold" in each for each in commands)


def test_an_undo_that_owes_money_is_not_to_be_skipped() -> None:
    moved = {"kind": "capture", "amount_minor": 5, "currency": "EUR", "reference": "pay-1"}
    assert "skip" not in advised(undone("pay-1", [moved]))


def test_a_failure_past_the_pivot_is_tried_again_done_by_hand_or_skipped() -> None:
    history = History(LONG).succeeds("pay", "ship").declined("mail").later(hours=1)
    assert advised(history) == ["mark-not-done", "retry", "mark-done", "skip", "resolve"]


def test_a_failure_past_the_pivot_that_was_not_given_for_the_key_is_tried_again_first() -> None:
    history = History(LONG).succeeds("pay", "ship").fails("mail", terminal=True).later(hours=1)
    assert advised(history) == ["retry", "mark-not-done", "mark-done", "skip", "resolve"]


def test_that_a_refused_step_was_not_done_needs_nobody_to_look_it_up() -> None:
    """The other side has said so itself; of what may be done, or was begun, it has to be asked."""
    not_done = MarkNotDone(step="mail")
    refused = History(LONG).succeeds("pay", "ship").declined("mail").later(hours=1)
    assert question(case_of(refused), not_done) is None
    may_be_done = History(LONG).succeeds("pay", "ship").unknown("mail")
    begun = History(LONG).succeeds("pay", "ship").waits("mail", None, reference="m-1", hours=1)
    begun.later(hours=2).declined("mail").later(hours=1)
    for history in (may_be_done, begun):
        assert question(case_of(history), not_done) is not None


def test_a_saga_in_back_off_is_hurried_and_one_that_moves_is_left_alone() -> None:
    assert advised(History(SHOP).fails("reserve")) == ["retry"]
    assert advised(History(SHOP).claims("reserve")) == []


def test_an_ended_saga_needs_nothing() -> None:
    assert advised(History(SHOP).succeeds("reserve", "pay", "ship")) == []


def test_what_only_comes_too_early_is_named_with_its_time() -> None:
    history = History(FORGETFUL).succeeds("reserve").unknown("pay")
    began = history.state.step("pay").forward.started_at
    assert began is not None
    times = {_short(each): each.possible_from for each in recommended(case_of(history))}
    assert times["mark-done"] == began + FORGETFUL.step("pay").timeout
    assert times["resolve"] is None


def test_of_a_definition_that_is_not_here_the_deploy_is_to_be_checked() -> None:
    [advice] = recommended(case_of(unknown(), known=False))
    assert advice.command == "amends check-deploy"


def test_a_parked_child_is_to_be_answered_where_it_is() -> None:
    history = History(SHOP).succeeds("reserve").waits("pay", "child.pay", hours=1)
    history.hears("child.pay", {"state": "stuck", "saga_id": "the-child"})
    assert history.visible is State.STUCK
    assert recommended(case_of(history))[0].command == "amends show the-child"


@pytest.mark.parametrize("history", [unknown(), unknown(ASKABLE), undone("pay-1")])
def test_a_recommended_command_is_one_that_the_program_takes(history: History) -> None:
    seq = str(history.log[-1].seq)
    for advice in recommended(case_of(history)):
        program, verb, *arguments = shlex.split(advice.command)
        command = amends.get_command(click.Context(amends), verb)
        assert program == "amends"
        assert command is not None
        given = command.make_context(verb, arguments).params
        assert (given.get("saga_id") or given["saga"]) == str(SAGA_ID)
        assert str(given["seen"]) == seq
