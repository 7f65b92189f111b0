"""Random sagas, random outcomes in random order: what must hold whatever happens."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.definition import Kind, Lock, SagaDefinition, Step
from orchestrator.entries import (
    PROBES,
    UNDOING,
    Direction,
    EffectReported,
    LateOutcomeRecorded,
    SagaLockGranted,
    StepStarted,
    UndoFailed,
    UndoRequested,
    UnknownReason,
    UnwindingStarted,
)
from orchestrator.state import PARKED, TERMINAL, State
from orchestrator.state_machine import decide
from tests.chaos.sizes import sizes
from tests.histories import COMPENSATE, FORWARD, History, doing, nothing, saga

MAX_EVENTS = 400


@st.composite
def definitions(draw: st.DrawFn) -> SagaDefinition[Any]:
    """Linear and branching sagas of one to six steps, half of them with a pivot."""
    count = draw(st.integers(1, 6))
    branching = draw(st.booleans())
    pivot_at = draw(st.one_of(st.none(), st.integers(0, count - 1)))
    steps: list[Step] = []
    for number in range(count):
        options: dict[str, Any] = {}
        if pivot_at is not None and number == pivot_at:
            options["pivot"] = True
        elif pivot_at is not None and number > pivot_at:
            options["retriable"] = True
        else:
            kind = draw(st.sampled_from(["undo", "undo", "undo", "none", "tx", "read"]))
            if kind == "none":
                options["no_compensation"] = "none, because it only writes a note"
            elif kind == "read":
                options["read_only"] = True
            elif kind == "tx":
                options |= {"transactional": True, "compensation": nothing}
        if not {"transactional", "read_only"} & set(options) and draw(st.booleans()):
            options |= {"probe": nothing, "lag": timedelta(seconds=draw(st.integers(0, 2)))}
            options["key_life"] = draw(st.sampled_from([None, timedelta(0), timedelta(seconds=4)]))
            if not {"pivot", "retriable", "no_compensation"} & set(options):
                options["undo_probe"] = nothing
        if draw(st.integers(0, 4)) == 0:
            options["when"] = lambda order: order.gift
        if branching and number > 0:
            options["after"] = _after(draw, steps, number, pivot_at)
        steps.append(doing(f"s{number}", **options))
    deadline = draw(st.sampled_from([None, None, timedelta(seconds=2)]))
    lock = draw(st.sampled_from([None, None, Lock(on=lambda order: str(order.amount))]))
    return saga(*steps, deadline=deadline, lock=lock)


def _after(draw: st.DrawFn, steps: list[Step], number: int, pivot_at: int | None) -> list[str]:
    names = [each.name for each in steps]
    if pivot_at is not None and number == pivot_at:
        return names  # everything comes before the pivot
    if pivot_at is not None and number > pivot_at:
        later = names[pivot_at:]
        return draw(st.lists(st.sampled_from(later), min_size=1, unique=True))
    return draw(st.lists(st.sampled_from(names), max_size=2, unique=True))


class Simulation:
    """Lets one random thing happen at a time, and checks what must always hold."""

    def __init__(self, draw: st.DataObject, definition: SagaDefinition[Any]) -> None:
        self.draw = draw.draw
        self.history = History(definition, gift=self.draw(st.booleans()))
        self.given_up: list[tuple[str, int]] = []
        self.given: dict[str, int | None] = {}
        self.undone_outside: set[tuple[str, int]] = set()
        self.chaos = self.draw(st.integers(0, 40))

    def run(self) -> None:
        for _ in range(MAX_EVENTS):
            self.check()
            if self.chaos > 0:
                self.chaos -= 1
                self.happens()
            elif not self.calms():
                return
        raise AssertionError(f"no end after {MAX_EVENTS} events: {self.history.kinds[-30:]}")

    # -- events ------------------------------------------------------------------------------------

    def happens(self) -> None:
        history = self.history
        choices = ["time", "signal"]
        if history.decision.runs:
            choices += ["claim"] * 6
        if self.opened():
            choices += ["end"] * 6
        if history.state.phase.value == "running" and history.state.cancel is None:
            choices.append("cancel")
        if self.given_up:
            choices.append("late")
        if history.state.phase in PARKED:
            choices.append("unpark")
        if self.undone():
            choices.append("undo failed")
        if history.state.undo_request is None:
            choices.append("undo requested")
        if self.is_in_line():
            choices += ["lock"] * 3
        self.does(self.draw(st.sampled_from(choices)))

    def does(self, event: str) -> None:
        history = self.history
        match event:
            case "time":
                history.later(seconds=self.draw(st.sampled_from([0.1, 1.0, 3.0])))
            case "claim":
                run = self.draw(st.sampled_from(history.decision.runs))
                self.claims(run.step, run.direction)
            case "signal":
                history.hears("answer")
            case "undo requested":
                history.records(UndoRequested(reason="the parent is taken back", actor="parent"))
            case "lock":
                history.records(SagaLockGranted())
            case "end":
                self.ends(*self.draw(st.sampled_from(self.opened())))
            case "cancel":
                history.cancelled()
            case "unpark":
                assert history.state.parked is not None
                history.unparked(*history.state.parked.steps)
            case "undo failed":
                self.undo_fails(*self.draw(st.sampled_from(self.undone())))
            case "late":
                name, attempt = self.draw(st.sampled_from(self.given_up))
                self.given_up.remove((name, attempt))
                reference = self.draw(st.sampled_from([None, "r1", "r2"]))
                if reference and self.draw(st.booleans()):
                    history.reported(name, reference)
                else:
                    history.late(name, attempt, reference)
            case unheard_of:
                raise AssertionError(unheard_of)

    def claims(self, name: str, direction: str) -> None:
        effect = self.history.state.effect_to_undo(name)
        if direction == COMPENSATE:
            self.given[name] = None if effect is None else effect.seq
        self.history.claims(name, direction)

    def succeeds(self, name: str, direction: str, reference: str | None = None) -> None:
        if direction in UNDOING and (given := self.given[name]) is not None:
            self.undone_outside.add((name, given))
        self.history.succeeds(name, direction=direction, reference=reference)

    def undo_fails(self, name: str, reference: str) -> None:
        for each in self.history.state.step(name).outside:
            if each.covered and reference in (each.reference, each.undo_reference):
                self.undone_outside.discard((name, each.seq))
        self.history.undo_failed(name, reference)

    def is_in_line(self) -> bool:
        state = self.history.state
        return state.lock is not None and not state.lock_granted and state.phase is State.RUNNING

    def calms(self) -> bool:
        """Everything that is asked for succeeds; False when nothing is left to do."""
        history = self.history
        if self.opened():
            self.succeeds(*self.opened()[0])
            return True
        if history.decision.runs:
            run = history.decision.runs[0]
            self.claims(run.step, run.direction)
            self.succeeds(run.step, run.direction)
            return True
        if self.is_in_line():
            history.records(SagaLockGranted())
            return True
        if history.decision.wake_at is not None:
            history.now = max(history.now, history.decision.wake_at)
            history.looks()
            return bool(history.decision.runs) or not self.is_over()
        assert self.is_over(), f"forgotten: {history.visible} after {history.kinds}"
        return False

    def ends(self, name: str, direction: str) -> None:
        history = self.history
        attempt = history.state.step(name).track(direction).open_attempt
        definition = history.definition.step(name)
        if direction in PROBES:
            self.ends_probe(name, Direction(direction))
            return
        ending = self.draw(st.sampled_from(_endings(definition, direction)))
        match ending:
            case "succeeds":
                reference = self.draw(st.sampled_from([None, "r1"]))
                self.succeeds(name, direction, reference)
            case "fails":
                history.fails(name, direction)
            case "declined":
                history.declined(name, direction)
            case "refused":
                history.fails(name, direction, terminal=True)
            case "released":
                history.released(name, direction)
            case "limited":
                history.fails(name, direction, spends_budget=False, retry_after_seconds=0.5)
            case "died":
                history.fails(name, direction, crashed=True, spends_budget=False)
            case "unknown":
                history.unknown(name, direction)
            case "kept":
                history.unknown(name, direction, is_kept=True)
            case "crashes":
                history.crashes(name, direction)
            case "drained":
                history.unknown(name, direction, UnknownReason.DRAINED)
            case "nothing":
                history.finds_nothing(name)
            case "waits":
                seconds = self.draw(st.sampled_from([0.0, 1.0]))
                signal = self.draw(st.sampled_from(["answer", None]))
                begun = self.draw(st.sampled_from([None, "w1"]))
                history.waits(name, signal, direction, seconds=seconds, reference=begun)
            case unheard_of:
                raise AssertionError(unheard_of)
        if direction == FORWARD and ending in ("unknown", "kept", "crashes", "drained"):
            assert attempt is not None
            self.given_up.append((name, attempt))

    def ends_probe(self, name: str, direction: Direction) -> None:
        history = self.history
        match self.draw(st.sampled_from(["found", "denied", "denied", "fails", "died", "hm"])):
            case "found":
                reference = self.draw(st.sampled_from([None, "r1"]))
                self.succeeds(name, direction, reference)
            case "denied":
                history.probed(name, direction, landed=False)
            case "hm":
                history.probed(name, direction, landed=None)
            case "fails":
                history.fails(name, direction)
            case "died":
                history.fails(name, direction, crashed=True, spends_budget=False)
            case unheard_of:
                raise AssertionError(unheard_of)

    def undone(self) -> list[tuple[str, str]]:
        """Steps with the references of undos that may prove undone."""
        return [
            (name, each.reference)
            for name, step in self.history.state.steps.items()
            for each in step.outside
            if each.covered and each.reference is not None and step.undone_by is None
        ]

    def opened(self) -> list[tuple[str, str]]:
        return [
            (name, direction)
            for name, step in self.history.state.steps.items()
            for direction, track in step.tracks
            if track.open_attempt is not None
        ]

    def is_over(self) -> bool:
        return self.history.visible in TERMINAL | PARKED

    # -- what must hold ----------------------------------------------------------------------------

    def check(self) -> None:
        history = self.history
        assert history.replayed() == history.state
        again = decide(history.definition, history.state, history.now, "seed")
        assert not again.entries, f"decided twice: {again.entries}"
        assert again.runs == history.decision.runs
        self.check_moving()
        self.check_undo_order()
        self.check_compensated()
        self.check_covered()

    def check_moving(self) -> None:
        """Whatever is not over is under way, asked for, or wakes up by itself."""
        history = self.history
        moves = self.opened() or history.decision.runs or self.is_in_line()
        assert self.is_over() or moves or history.decision.wake_at, (
            f"forgotten: {history.visible} after {history.kinds}"
        )
        if self.is_over():
            assert not history.decision.runs

    def check_undo_order(self) -> None:
        history = self.history
        undoing = {run.step for run in history.decision.runs if run.direction == COMPENSATE}
        undoing |= {name for name, direction in self.opened() if direction == COMPENSATE}
        for name in undoing:
            assert not history.state.step(name).forward.unsettled, f"{name} undone while unknown"
        if undoing:
            forward = [name for name, direction in self.opened() if direction == FORWARD]
            assert not forward, f"{undoing} undone while {forward} runs"
            assert not any(run.direction == FORWARD for run in history.decision.runs)
        reopened = {
            each.entry.step
            for each in history.log
            # Their undo begins when it must.
            if isinstance(each.entry, LateOutcomeRecorded | EffectReported | UndoFailed)
        }
        for name in undoing - reopened:
            for other in undoing:
                assert name not in _later(history.definition, other), (
                    f"{other} undone before {name}"
                )

    def check_compensated(self) -> None:
        history = self.history
        if history.visible.value == "compensated":
            for each in history.definition.steps:
                known = history.state.step(each.name)
                if each.compensation is not None or each.kind is Kind.PIVOT:
                    assert not known.uncovered_effect, f"{each.name} is not taken back"
                    called = known.forward.attempts - known.forward.released
                    if each.compensation and not each.transactional and called:
                        assert known.undone_seq, f"{each.name} may have run and was not undone"
        if history.visible.value == "completed":
            for each in history.definition.steps:
                known = history.state.step(each.name)
                assert known.is_done
                if each.compensation is not None:
                    assert not known.second_effect, f"{each.name} took effect twice"

    def check_covered(self) -> None:
        """What the log takes for undone was undone, and did not prove undone since."""
        for name, step in self.history.state.steps.items():
            for each in step.outside:
                is_undone = (name, each.seq) in self.undone_outside
                assert is_undone or not each.covered, f"{each} of {name} was never undone"


def _endings(definition: Step, direction: str) -> list[str]:
    endings = ["succeeds", "succeeds", "fails", "declined", "refused", "released", "limited"]
    endings.append("waits")
    if definition.transactional or definition.read_only:
        endings.append("died")
    else:
        endings += ["unknown", "kept", "crashes", "drained"]
    if direction == COMPENSATE:
        endings.append("nothing")
    return endings


def _later(definition: SagaDefinition[Any], name: str) -> set[str]:
    found: set[str] = set()
    for each in definition.before[name]:
        found |= {each} | _later(definition, each)
    return found


@sizes(150, 2000)
def test_whatever_happens_a_saga_keeps_its_promises_and_ends(size: int) -> None:
    @settings(
        max_examples=size,
        deadline=None,
        suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
    )
    @given(st.data())
    def keeps_its_promises(data: st.DataObject) -> None:
        simulation = Simulation(data, data.draw(definitions()))
        simulation.run()
        _check_order_of_the_whole_log(simulation.history)

    keeps_its_promises()


def _check_order_of_the_whole_log(history: History) -> None:
    """No step starts before those it comes after, and none forward after an unwinding began."""
    unwinding = False
    for place, recorded in enumerate(history.log):
        match recorded.entry:
            case UnwindingStarted():
                unwinding = True
            case StepStarted(direction=Direction.FORWARD, step=name):
                assert not unwinding, f"{name} went forward while the saga unwinds"
                began = {
                    each.entry.step
                    for each in history.log[:place]
                    if isinstance(each.entry, StepStarted)
                }
                for earlier in _earlier(history.definition, name):
                    skipped = history.state.step(earlier).skipped
                    assert skipped or earlier in began, f"{name} before {earlier}"
            case _:
                pass


def _earlier(definition: SagaDefinition[Any], name: str) -> set[str]:
    found: set[str] = set()
    for each in definition.after[name]:
        found |= {each} | _earlier(definition, each)
    return found
