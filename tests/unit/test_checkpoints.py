"""A checkpoint stands for the entries before it: whatever happens after, the fold is the same."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import checkpoints, folding, state_codec
from orchestrator.entries import EntriesVoided, Json, Recorded, SignalReceived
from orchestrator.errors import HistoryError, NotKeptError
from orchestrator.folding import replay
from orchestrator.state import FoldedSaga, HeardSignals
from orchestrator.state_machine import decide
from tests.chaos.sizes import sizes
from tests.histories import MORNING, History, doing, saga
from tests.unit.test_simulation import Simulation, definitions

UNHURRIED = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
)


def through_json(state: FoldedSaga, signals_kept: int = checkpoints.KEPT_SIGNALS) -> FoldedSaga:
    """The state as it comes out of the database."""
    found = checkpoints.decoded(json.loads(json.dumps(checkpoints.encoded(state, signals_kept))))
    assert found is not None
    return found


def resumed(kept: FoldedSaga, log: Sequence[Recorded], place: int) -> FoldedSaga:
    """What a claim has: from the checkpoint on, or all anew where that left something out."""
    try:
        return replay(log[place:], kept)
    except NotKeptError:
        return replay(log)


def assert_same(kept: FoldedSaga, whole: FoldedSaga) -> None:
    """The same state, of which signals that were read may have been left out."""
    assert replace(kept, signals={}) == replace(whole, signals={})
    assert kept.signals.keys() == whole.signals.keys()
    for name, heard in kept.signals.items():
        assert len(heard) == len(whole.signals[name])
        for place in range(len(heard)):
            try:
                assert heard[place] == whole.signals[name][place]
            except NotKeptError:
                assert place < max(step.signals_used.get(name, 0) for step in kept.steps.values())


@sizes(40, 1500)
def test_a_checkpoint_and_what_follows_fold_to_what_the_whole_log_does(size: int) -> None:
    @settings(UNHURRIED, max_examples=size)
    @given(st.data())
    def folds_the_same(data: st.DataObject) -> None:
        simulation = Simulation(data, data.draw(definitions()))
        simulation.run()
        log, state = simulation.history.log, FoldedSaga()
        whole = replay(log)
        for place, recorded in enumerate(log, start=1):
            state = folding.apply(state, recorded)
            kept = through_json(state)
            assert_same(kept, state)
            if place % 5 == 1:
                assert_same(resumed(kept, log, place), whole)

    folds_the_same()


@sizes(40, 1500)
def test_what_a_checkpoint_leaves_out_is_missed_or_not_needed(size: int) -> None:
    @settings(UNHURRIED, max_examples=size)
    @given(st.data())
    def decides_the_same(data: st.DataObject) -> None:
        definition = data.draw(definitions())
        simulation = Simulation(data, definition)
        simulation.run()
        log = simulation.history.log
        place = data.draw(st.integers(1, len(log)))
        until = data.draw(st.integers(place, len(log)))
        kept = through_json(replay(log[:place]), signals_kept=1)
        try:
            resumed = replay(log[place:until], kept)
        except NotKeptError:
            return
        now = log[until - 1].at
        found, wanted = (
            decide(definition, each, now, "seed") for each in (resumed, replay(log[:until]))
        )
        assert (found.entries, found.runs, found.wake_at, found.visible) == (
            wanted.entries,
            wanted.runs,
            wanted.wake_at,
            wanted.visible,
        )

    decides_the_same()


# -- signals ---------------------------------------------------------------------------------------


def waiting_for(count: int) -> History:
    """A saga that waits for its first signal of `count`."""
    history = History(saga(doing("pay")))
    for number in range(count):
        history.hears("news", number)
    return history.waits("pay", "news", hours=1)


def test_of_thousands_of_signals_a_checkpoint_keeps_the_next_and_the_last() -> None:
    few, many = (checkpoints.encoded(waiting_for(count).state) for count in (100, 3000))
    assert len(json.dumps(many)) < len(json.dumps(few)) + 100
    heard = through_json(waiting_for(3000).state).signals["news"]
    assert len(heard) == 3000
    assert [heard[0].payload, heard[31].payload, heard[-1].payload] == [0, 31, 2999]
    with pytest.raises(NotKeptError):
        heard[32]


def test_a_step_gets_its_signals_in_order_from_a_checkpoint() -> None:
    history = waiting_for(200)
    for number in range(5):
        history.state = through_json(history.state)
        history.claims("pay")
        signal = history.state.step("pay").signal
        assert signal is not None
        assert signal.payload == number
        history.waits("pay", "news", hours=1)


def test_a_step_that_needs_a_signal_that_was_left_out_misses_it_and_takes_no_other() -> None:
    history = waiting_for(40)
    kept = through_json(history.state, signals_kept=0)
    run = history.run("pay")
    history.claims("pay")
    intent = next(each for each in history.log if each.seq == kept.seq + 1)
    assert run.attempt
    with pytest.raises(NotKeptError):
        folding.apply(kept, intent)


@given(count=st.integers(1, 30), unread=st.integers(0, 30), most=st.integers(0, 5))
def test_cutting_signals_loses_none_that_it_says_it_has(count: int, unread: int, most: int) -> None:
    signals = [SignalReceived(name="x", dedup_id=str(n)) for n in range(count)]
    whole = HeardSignals()
    for each in signals:
        whole = whole.and_then(each)
    once = whole.cut(min(unread, count), most)
    for cut in (once, once.cut(min(unread, count), most)):
        assert len(cut) == count
        assert cut[-1] == signals[-1]
        for place in range(count):
            try:
                assert cut[place] == signals[place]
            except NotKeptError:
                assert not unread <= place < unread + most
        more = cut.and_then(signals[0])
        assert len(more) == count + 1
        assert more[-1] == signals[0]


# -- what is not believed --------------------------------------------------------------------------


def test_a_checkpoint_that_does_not_fit_its_entries_is_noticed() -> None:
    history = History(saga(doing("pay"))).succeeds("pay", reference="r")
    log = history.log
    wrong = replay(log[:1])
    forged = replace(wrong, seq=2)
    with pytest.raises(HistoryError):
        replay(log[2:], forged)


def test_a_checkpoint_that_took_in_what_is_void_cannot_go_on() -> None:
    history = History(saga(doing("pay"))).hears("forged").hears("true")
    kept = through_json(replay(history.log[:2]))
    voided = Recorded(
        seq=len(history.log) + 1,
        at=history.now,
        entry=EntriesVoided(seqs=[2], actor="ops", reason="nobody sent it"),
    )
    with pytest.raises(HistoryError, match="from its start"):
        replay([*history.log[2:], voided], kept)
    anew = replay([*history.log, voided])
    assert list(anew.signals) == ["true"]
    assert through_json(anew) == anew


@pytest.mark.parametrize(
    "damaged",
    [None, [], 7, {"seq": 1, "unheard_of": 2}, {"phase": "flying"}, {"deadline_at": "tomorrow"}],
)
def test_a_checkpoint_that_cannot_be_read_is_none(damaged: Json) -> None:
    assert checkpoints.decoded(damaged) is None


# -- the name of the rules -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["folding", "effects", "state", "entries", "state_codec"])
def test_whoever_changes_a_rule_changes_the_form(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = checkpoints.form()

    def changed(module: ModuleType) -> str:
        source = inspect.getsource(module)
        return source + "# changed" if module.__name__ == f"orchestrator.{name}" else source

    monkeypatch.setattr(checkpoints, "_source", changed)
    checkpoints.form.cache_clear()
    try:
        assert checkpoints.form() != before
    finally:
        monkeypatch.undo()
        checkpoints.form.cache_clear()
    assert checkpoints.form() == before


def test_a_state_may_grow_by_fields_of_any_kind_that_states_have() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Grown:
        when: Any = None
        pauses: tuple[timedelta, ...] = ()

    with pytest.raises(TypeError, match="has no form in JSON"):
        state_codec.codec_of(Grown)


def test_times_keep_their_microseconds() -> None:
    at = MORNING + timedelta(microseconds=1)
    assert through_json(FoldedSaga(seq=1, deadline_at=at)).deadline_at == at
