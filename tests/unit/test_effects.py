"""Given several effects of one step, or several keys, expect each to be answered for by itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from orchestrator.books import books
from orchestrator.entries import (
    EffectReported,
    LateOutcomeRecorded,
    StepSettled,
    StepSkipped,
    StepSucceeded,
    UndoRequested,
    UndoSkipped,
)
from orchestrator.keys import forward_key, key_of, step_key
from orchestrator.keys import undo_key as undo_key_on
from orchestrator.state import State
from recovery.invariants.undoing import left_undone
from tests.histories import COMPENSATE, FORWARD, PROBE, PROBE_UNDO, History, doing, nothing, saga

HELD = saga(doing("authorize", undone_by="capture"), doing("capture"), doing("thank"))
PAY = doing("pay", probe=nothing, timeout=timedelta(seconds=5))
PAYING = saga(PAY, doing("thank"), doing("ship", pivot=True))


def references(history: History, step: str) -> list[str | None]:
    return [each.reference for each in history.state.step(step).effects]


# -- undone by another step ------------------------------------------------------------------------


def held_twice() -> History:
    """Two holds, both known before the capture of the first is given back."""
    history = History(HELD).crashes("authorize").succeeds("authorize", reference="a-1")
    history.succeeds("capture", reference="c-1").reported("authorize", "a-2")
    return history.cancelled().succeeds("capture", direction=COMPENSATE, reference="refund-1")


def test_a_second_effect_is_not_spared_by_another_steps_undo() -> None:
    history = held_twice()
    assert history.kinds[-1] == "UndoSkipped"
    assert history.wants == ["undo authorize#1"]
    effect = history.state.effect_to_undo("authorize")
    assert effect is not None
    assert effect.reference == "a-2"
    assert history.undoes("authorize").visible is State.COMPENSATED


def test_what_was_only_begun_by_a_skipped_step_is_undone_by_itself() -> None:
    history = History(HELD).waits("authorize", "answer", reference="a-1", seconds=60)
    history.records(StepSkipped(step="authorize", direction=FORWARD, by="two persons"))
    history.succeeds("capture", reference="c-1").cancelled()

    history.succeeds("capture", direction=COMPENSATE, reference="refund-1")

    assert history.wants == ["undo authorize#1"]
    effect = history.state.effect_to_undo("authorize")
    assert effect is not None
    assert (effect.reference, effect.is_open) == ("a-1", True)


def test_the_effect_that_counts_is_spared_though_another_was_heard_of_first() -> None:
    """The answer of the running attempt counts, and with that the capture worked."""
    history = History(HELD).crashes("authorize").claims("authorize")
    history.late("authorize", attempt=1, reference="a-1").succeeds("authorize", reference="a-2")
    history.succeeds("capture", reference="c-1").cancelled()
    history.succeeds("capture", direction=COMPENSATE, reference="refund-1")
    effect = history.state.effect_to_undo("authorize")
    assert effect is not None
    assert effect.reference == "a-1"
    assert history.undoes("authorize").visible is State.COMPENSATED


def test_an_undo_of_a_second_effect_only_spares_nothing_of_another_step() -> None:
    """The capture that worked with the hold cannot be given back; only a second one was."""
    history = History(HELD).succeeds("authorize", reference="a-1")
    history.succeeds("capture", reference="c-1").succeeds("thank").reported("capture", "c-2")
    assert history.undoes("capture").visible is State.COMPLETED
    history.records(UndoRequested(reason="the parent is taken back", actor="parent"))
    history.undoes("thank").declined("capture", COMPENSATE)
    assert "UndoSkipped" not in history.kinds
    assert history.wants == ["undo authorize#1"]


def test_calling_off_what_was_only_begun_spares_nothing_before_it() -> None:
    history = History(HELD).succeeds("authorize", reference="a-1")
    history.waits("capture", "captured", reference="c-1", decisive=True, hours=1).cancelled()
    history.succeeds("capture", direction=COMPENSATE, reference="c-1")
    assert history.wants == ["undo authorize#1"]
    assert left_undone(history.log, HELD.steps) == ["authorize"]
    assert history.undoes("authorize").visible is State.COMPENSATED


def test_calling_off_what_a_wait_did_not_name_spares_nothing_before_it() -> None:
    history = History(HELD).succeeds("authorize", reference="a-1")
    history.waits("capture", "captured", decisive=True, hours=1).cancelled()
    history.succeeds("capture", direction=COMPENSATE, reference="c-1")
    assert history.wants == ["undo authorize#1"]
    assert left_undone(history.log, HELD.steps) == ["authorize"]
    assert history.undoes("authorize").visible is State.COMPENSATED


def test_that_a_probe_found_called_off_what_was_only_begun_spares_nothing_before_it() -> None:
    capture = doing("capture", undo_probe=nothing)
    history = History(saga(doing("authorize", undone_by="capture"), capture, doing("thank")))
    history.succeeds("authorize", reference="a-1")
    history.waits("capture", "captured", reference="c-1", decisive=True, hours=1).cancelled()
    history.unknown("capture", COMPENSATE, is_kept=True)
    history.probed("capture", PROBE_UNDO, landed=True, reference="c-1")
    assert history.wants == ["undo authorize#1"]


def test_the_judge_of_logs_does_not_take_a_second_effect_for_spared() -> None:
    history = held_twice()
    assert left_undone(history.log, HELD.steps) == ["authorize"]
    assert left_undone(history.undoes("authorize").log, HELD.steps) == []


# -- keys ------------------------------------------------------------------------------------------


def with_a_second_key() -> History:
    """Attempt 1 was settled as not landed; attempt 2 uses another key."""
    history = History(PAYING).unknown("pay").unknown("pay").unknown("pay").later(minutes=1)
    for _ in range(2):
        history.probed("pay", landed=False).later(minutes=1)
    assert history.state.step("pay").generation == 2
    return history


def test_a_late_effect_without_a_reference_is_another_ones_under_another_key() -> None:
    history = with_a_second_key().succeeds("pay").late("pay", attempt=3)
    assert [each.generation for each in history.state.step("pay").effects] == [2, 1]
    history.succeeds("thank", "ship")
    assert history.wants == ["undo pay#1"]
    assert history.undoes("pay").visible is State.COMPLETED


def test_without_a_reference_two_attempts_of_one_key_had_one_effect() -> None:
    history = History(PAYING).unknown("pay").succeeds("pay").late("pay", attempt=1)
    assert len(history.state.step("pay").effects) == 1


def test_a_late_success_under_the_first_key_leaves_the_second_unknown() -> None:
    history = with_a_second_key().unknown("pay").late("pay", attempt=1, reference="p-1")
    step = history.state.step("pay")
    assert step.forward.unsettled
    assert not step.is_done
    assert history.wants == ["probe pay#3"], "what might be a second effect is not repeated"
    history.probed("pay", landed=True, reference="p-2")
    assert references(history, "pay") == ["p-1", "p-2"]
    assert history.wants == ["thank#1"]


def test_a_second_key_that_did_not_land_leaves_the_late_effect_of_the_first() -> None:
    history = with_a_second_key().unknown("pay").late("pay", attempt=1, reference="p-1")
    for _ in range(2):
        history.later(minutes=1).probed("pay", landed=False)
    assert history.state.step("pay").generation == 3
    assert history.wants == ["thank#1"]


def test_an_unknown_second_effect_that_cannot_be_asked_about_asks_a_person() -> None:
    history = History(saga(doing("pay"), doing("ship", pivot=True)))
    history.unknown("pay").unknown("pay").unknown("pay").settles("pay", landed=False)
    history.unparked("pay").unknown("pay").late("pay", attempt=1, reference="p-1")
    assert history.visible is State.STUCK
    assert history.settles("pay", landed=False).wants == ["ship#1"]


def test_an_effect_under_an_earlier_key_does_not_answer_for_the_attempt_that_runs() -> None:
    history = with_a_second_key().claims("pay").late("pay", attempt=1, reference="p-1")
    history.unknown("pay")
    assert history.state.step("pay").forward.unsettled


def test_an_effect_under_the_same_key_answers_for_the_attempt_that_runs() -> None:
    history = History(PAYING).unknown("pay").claims("pay").late("pay", attempt=1, reference="p-1")
    history.unknown("pay")
    assert history.wants == ["thank#1"]


def test_an_effect_that_others_saw_settles_only_the_key_that_it_bears() -> None:
    def seen(generation: int | None) -> History:
        fact = EffectReported(step="pay", reference="p-1", by="webhook", generation=generation)
        return with_a_second_key().unknown("pay").records(fact)

    assert seen(1).state.step("pay").forward.unsettled
    assert seen(None).state.step("pay").forward.unsettled
    assert not seen(2).state.step("pay").forward.unsettled


def test_a_probe_that_asked_about_the_first_key_says_nothing_of_the_second() -> None:
    history = History(PAYING).unknown("pay").unknown("pay").unknown("pay").claims("pay", PROBE)
    history.settles("pay", landed=False)
    history.probed("pay", landed=False)
    assert history.state.step("pay").denials == ()


def test_a_late_success_under_the_key_of_a_wait_is_what_that_waited_for() -> None:
    history = History(PAYING).unknown("pay").waits("pay", "paid", reference="p-1", hours=1)
    history.late("pay", attempt=1).succeeds("thank", "ship")
    assert history.visible is State.COMPLETED


def test_an_effect_is_undone_under_a_key_that_derives_from_its_own() -> None:
    history = with_a_second_key().succeeds("pay").late("pay", attempt=3)
    history.succeeds("thank").cancelled().undoes("thank")
    used = {undo_key(history)}
    assert step_key(history.state, "shop", "k", "pay", COMPENSATE) == key(2)
    history.undoes("pay")
    used |= {undo_key(history)}
    assert step_key(history.state, "shop", "k", "pay", COMPENSATE) == key(1)
    assert used == {undo_key_on(key(1), None), undo_key_on(key(2), None)}
    assert history.undoes("pay").visible is State.COMPENSATED


def test_the_judge_of_logs_tells_effects_of_two_keys_apart() -> None:
    history = with_a_second_key().succeeds("pay").late("pay", attempt=3)
    history.succeeds("thank").cancelled().undoes("thank", "pay")
    assert left_undone(history.log, PAYING.steps) == ["pay"]
    assert left_undone(history.undoes("pay").log, PAYING.steps) == []


def key(generation: int) -> str:
    return forward_key("shop", "k", "pay", generation)


def undo_key(history: History) -> str:
    return key_of(history.state, "shop", "k", "pay", COMPENSATE)


# -- money -----------------------------------------------------------------------------------------


def moved() -> list[dict[str, Any]]:
    return [{"kind": "capture", "amount_minor": 10, "currency": "EUR"}]


def captured(history: History) -> int:
    return books(history.state.money)["EUR"].captured


def test_money_without_a_reference_was_moved_once_under_each_key() -> None:
    history = with_a_second_key().claims("pay")
    history.records(StepSucceeded(step="pay", direction=FORWARD, attempt=4, movements=moved()))
    assert captured(history) == 10
    for attempt in (3, 2):  # both under the first key
        late = LateOutcomeRecorded(
            step="pay", direction=FORWARD, attempt=attempt, outcome="succeeded", movements=moved()
        )
        history.records(late)
        assert captured(history) == 20


def test_money_without_a_reference_is_named_by_its_effects() -> None:
    history = History(PAYING).claims("pay")
    done: dict[str, Any] = {"step": "pay", "movements": moved()}
    history.records(StepSucceeded(direction=FORWARD, attempt=1, reference="p-1", **done))
    history.records(EffectReported(reference="p-1", by="webhook", **done))
    assert captured(history) == 10
    history.records(EffectReported(reference="p-2", by="webhook", **done))
    assert captured(history) == 20


def test_a_settlement_says_up_to_which_attempt_it_holds() -> None:
    history = with_a_second_key()
    settled = [each.entry for each in history.log if isinstance(each.entry, StepSettled)]
    assert [each.attempt for each in settled] == [3]
    assert [history.state.step("pay").generation_of(number) for number in (1, 3, 4)] == [1, 1, 2]


def test_an_undo_that_was_spared_holds_nothing_of_its_own() -> None:
    history = held_twice()
    spared = [each.entry for each in history.log if isinstance(each.entry, UndoSkipped)]
    assert spared == [UndoSkipped(step="authorize", undone_by="capture")]
    assert not any(each.undone for each in history.state.step("authorize").effects)
