"""Waits, and how an unknown becomes known: by replay, by probe, or by an operator.

replay   the same key again: whatever is answered for it is the truth. Never past half the time
         for which the other side remembers a key: then a replay could act anew. Nor while an
         effect under an earlier key is known: then it could be a second one.
probe    ask whether it is there. "It landed" is believed at once. "It is not there" is believed
         when said twice by probes that began after everything a given-up attempt may have sent
         must have arrived: its timeout and the other side's lag after it was started.
park     when both have nothing left: stop in front of an operator, with the question.

An undo is settled like a step: replay, probe (`undo_probe=`), then a new key; or it is left over.

An undo of a step without a known effect asks as well, and "not there" is believed in the same way.
The step is settled by then, so all that is waited for is the other side's lag after it ended.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from orchestrator.actions import Action, AwaitSignal, Park, RunStep, Settle
from orchestrator.definition import Step
from orchestrator.entries import Direction, StepWaiting
from orchestrator.pauses import backoff, not_before
from orchestrator.state import FoldedSaga, State, StepState, Track

DENIALS = 2
"""How often "not there" must be said before it is believed."""


def settle(state: FoldedSaga, step: Step, now: datetime, seed: str) -> Action:
    """Return what settles a step that may have taken effect."""
    known = state.step(step.name)
    track = known.forward
    if isinstance(track.last, StepWaiting):
        return after_waiting(state, step, Direction.FORWARD, track.last, now, seed)
    due = not_before(track, step.retry, seed, step.name, Direction.FORWARD)
    settles_nothing = bool(known.effects) or (track.is_kept and step.probe is not None)
    has_budget = track.unknowns < step.retry.max_attempts and not settles_nothing
    if may_replay(step, track, has_budget, due or now, now):
        return run(state, step, Direction.FORWARD, due)
    if step.probe is not None:
        return ask(state, step, Direction.FORWARD, seed) or _unanswered(state, step)
    return _question(step, track, due or now, now)


def may_replay(step: Step, track: Track, has_budget: bool, due: datetime, now: datetime) -> bool:
    """Whether the same key may be used again at `due` for what is unsettled."""
    return has_budget and track.crashes < step.max_crashes and key_is_young(step, track, due, now)


def key_is_young(step: Step, track: Track, due: datetime, now: datetime) -> bool:
    """Whether the other side surely still knows the key when it is used again."""
    if step.key_life is None or track.key_since is None:
        return True
    return max(due, now) < track.key_since + step.key_life / 2


def after_waiting(
    state: FoldedSaga,
    step: Step,
    direction: Direction,
    wait: StepWaiting,
    now: datetime,
    seed: str,
) -> AwaitSignal | RunStep:
    """Hold on until the signal is there or the moment has passed; then a new attempt finds out."""
    known = state.step(step.name)
    track = known.track(direction)
    until = datetime.fromisoformat(wait.until)
    heard = wait.signal is not None and (
        len(state.signals.get(wait.signal, ())) > known.signals_used.get(wait.signal, 0)
    )
    if not heard and now < until:
        return AwaitSignal(step=step.name, signal=wait.signal, until=until)
    due = None if heard else _after_an_empty_wait(track, step, until, seed)
    return RunStep(step=step.name, direction=direction, attempt=track.attempts + 1, not_before=due)


def run(state: FoldedSaga, step: Step, direction: Direction, due: datetime | None) -> RunStep:
    """Return the next attempt in one direction."""
    track = state.step(step.name).track(direction)
    return RunStep(
        step=step.name,
        direction=direction,
        attempt=track.attempts + 1,
        not_before=due,
        alone=track.crashes > 0 and track.crashes == step.max_crashes - 1,
    )


def poison(step: Step) -> Park:
    """Return the question in front of which a step that kills its workers is parked."""
    return Park(
        state=State.STUCK,
        reason="poison",
        question=f"{step.name} took {step.max_crashes} workers down: did it take effect, "
        "and is it safe to run?",
        steps=(step.name,),
    )


def ask(state: FoldedSaga, step: Step, direction: Direction, seed: str) -> RunStep | Settle | None:
    """Return what a probe leads to: it asks (again), or was told "not there" often enough.

    None when its budget is spent without an answer.

    Args:
        direction: what is asked about: the step, or its undo.
    """
    known = state.step(step.name)
    asked, asks = known.track(direction), Direction.PROBE
    denials = known.denials
    if direction is Direction.COMPENSATE:
        asks, denials = Direction.PROBE_UNDO, known.undo_denials
    quiet = _quiet_since(asked, step)
    believed = [each for each in denials if each >= quiet]
    if len(believed) >= DENIALS:
        return Settle(step=step.name, attempt=asked.attempts, direction=direction)
    track = known.track(asks)
    if track.failures >= step.probe_retry.max_attempts or track.crashes >= step.max_crashes:
        return None
    due = not_before(track, step.probe_retry, seed, step.name, asks)
    if denials and not believed:
        due = max(due or quiet, quiet)
    return run(state, step, asks, due)


def _unanswered(state: FoldedSaga, step: Step) -> Park:
    known = state.step(step.name)
    return Park(
        state=State.STUCK,
        reason="unknown",
        question=f"Did {step.name} take effect? {known.forward.attempts} attempts and "
        f"{known.probe.attempts} probes, no answer.",
        steps=(step.name,),
    )


def believed_since(step: StepState, asked_at: datetime, lag: timedelta) -> datetime | None:
    """Return from when on an undo's "not there" counts, or None when it is believed by now.

    From then on the other side shows everything that the settled step did there. When the step's
    budget began anew, its end is forgotten, and the first look stands for it.

    Args:
        asked_at: when the undo began that was told so last.
        lag: of the other side.
    """
    asked = (*step.denials, asked_at)
    since = (step.forward.ended_at or min(asked)) + lag
    return None if sum(each >= since for each in asked) >= DENIALS else since


def _quiet_since(track: Track, step: Step) -> datetime:
    """From when on nothing of a given-up attempt can arrive any more, and all can be seen."""
    assert track.started_at is not None, "only a step that was started is unsettled"
    return track.started_at + step.timeout + step.lag


def _question(step: Step, track: Track, due: datetime, now: datetime) -> Park:
    if track.crashes >= step.max_crashes:
        return poison(step)
    why = f"{track.attempts} attempts, no answer"
    if not key_is_young(step, track, due, now):
        why = "its idempotency key is too old to be used again"
    return Park(
        state=State.STUCK,
        reason="unknown",
        question=f"Did {step.name} take effect? {why}.",
        steps=(step.name,),
    )


def _after_an_empty_wait(track: Track, step: Step, until: datetime, seed: str) -> datetime | None:
    """A wait that was over when it was asked for must not make the step run without a pause."""
    if track.ended_at is None or track.ended_at < until:
        return None
    return track.ended_at + backoff(step.retry, track.attempts, seed, step.name, track.attempts)
