"""Which steps a log leaves undone, told from its entries alone.

Deliberately not the state machine's own answer: a judge that asks the code it judges finds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.definition import Kind, Step
from orchestrator.entries import (
    Direction,
    EffectReported,
    LateOutcomeRecorded,
    Recorded,
    SagaMigrated,
    StepProbed,
    StepReleased,
    StepSettled,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    StepWaiting,
    UndoFailed,
    UndoSkipped,
)

Landed = StepSucceeded | LateOutcomeRecorded | StepSettled | StepProbed | EffectReported


@dataclass(slots=True, kw_only=True)
class Account:
    """What one step did outside, and what of it was taken back.

    Args:
        effects: known effects that no compensation accounts for, the oldest first: where the log
            tells of each, and the other side's name for it.
        taken_back: the effects that one accounts for, with the other side's name for the undo.
        counts: the seq of the effect that steps after it worked with.
        references: the other side's names of all that were ever known.
        begun: of these, what a wait was told of and no success of the step has accounted for.
        keys: the keys, by their number, under which one was ever known.
        settled: the last attempt under each key that was settled as not landed.
        started: the latest attempt, and `started_at` its seq.
        asked: the number of the key that the latest probe asked about.
        ran: attempts whose function was called.
        undo_began: the seq of the latest attempt to undo.
        undone_at: the seq at which the latest undo that really undid something began.
        waits_unnamed: the step waited for something that the log has no name of.
        was_undone: a compensation, its own or another step's, has answered for the step.
    """

    effects: list[tuple[int, str | None]] = field(default_factory=list)
    taken_back: list[tuple[int, str | None, str | None]] = field(default_factory=list)
    counts: int = 0
    references: set[str | None] = field(default_factory=set)
    begun: set[str | None] = field(default_factory=set)
    keys: set[int] = field(default_factory=set)
    settled: list[int] = field(default_factory=list)
    started: int = 0
    started_at: int = 0
    asked: int = 1
    ran: int = 0
    undo_began: int = 0
    undone_at: int = 0
    waits_unnamed: bool = False
    was_undone: bool = False

    def intended(self, seq: int, entry: StepStarted) -> None:
        """Note an attempt that began."""
        match entry.direction:
            case Direction.FORWARD:
                self.ran += 1
                self.started, self.started_at = entry.attempt, seq
            case Direction.COMPENSATE:
                self.undo_began = seq
            case Direction.PROBE_UNDO:
                pass
            case _:
                self.asked = 1 + len(self.settled)

    def landed(self, seq: int, entry: Landed) -> None:
        """Note an effect, unless one of its reference is known, or without one of its key."""
        reference, key = entry.reference, self._key(entry)
        if reference in self.begun:
            self._accounts_for({reference})
        if key in self.keys if reference is None else reference in self.references:
            return
        self.references.add(reference)
        self.keys.add(key)
        self.effects.append((seq, reference))
        if not self.counts or (isinstance(entry, StepSucceeded) and self.counts > self.started_at):
            self.counts = seq

    def _key(self, entry: Landed) -> int:
        match entry:
            case StepSucceeded() | LateOutcomeRecorded():
                return 1 + sum(last < entry.attempt for last in self.settled)
            case StepProbed():
                return self.asked
            case EffectReported():
                return entry.generation or 1
            case StepSettled():
                return 1 + len(self.settled)

    def waits(self, seq: int, reference: str | None) -> None:
        """Note what a wait was told of; nobody knows whether what it did not name took effect."""
        self.waits_unnamed = reference is None
        if reference is not None:
            self.began(seq, reference)

    def began(self, seq: int, reference: str) -> None:
        """Note what a wait was told of: it may take effect yet, so it counts as an effect."""
        if reference not in self.references:
            self.references.add(reference)
            self.effects.append((seq, reference))
        self.begun.add(reference)

    def succeeded(self, seq: int, entry: StepSucceeded) -> None:
        """Note the step's own success, which accounts for what it had waited for."""
        self.waits_unnamed = False
        self._accounts_for(self.begun)
        self.landed(seq, entry)

    def _accounts_for(self, begun: set[str | None]) -> None:
        self.effects = [each for each in self.effects if each[1] not in begun]
        self.references -= begun
        self.begun = self.begun - begun

    def undone(self, *, said_so: bool, reference: str | None = None) -> None:
        """Note a compensation that ended: for the oldest effect it knew, or for what it found.

        Args:
            said_so: it undid something; else it met nothing, which of a known effect is no answer.
            reference: the other side's name of what it did.
        """
        known = bool(self.effects) and self.effects[0][0] < self.undo_began
        if known and not said_so:
            return
        is_effect = reference is not None and not self.waits_unnamed
        if known:
            undone = self.effects.pop(0)
            self.taken_back.append((*undone, reference))
            is_effect = undone[1] not in self.begun
        if said_so and is_effect:
            self.undone_at = self.undo_began
        self.was_undone = True

    def spared(self, seq: int) -> None:
        """Note that another step's undo, begun at `seq`, undid what that step had worked with."""
        if seq:
            self.effects = [e for e in self.effects if e[0] > seq or e[0] != self.counts]
            self.was_undone = True

    def undo_failed(self, reference: str) -> None:
        """Note that an undo which had been accepted proved undone."""
        back = [each for each in self.taken_back if reference in each[1:]]
        self.taken_back = [each for each in self.taken_back if each not in back]
        self.effects = sorted([*self.effects, *(each[:2] for each in back)], key=lambda e: e[0])
        self.was_undone = self.was_undone and bool(back)

    def given_up(self) -> None:
        """Note that an operator let the step stand."""
        self.effects, self.was_undone = [], True


def left_undone(entries: Iterable[Recorded], steps: Iterable[Step]) -> list[str]:
    """Return the steps that may have had an effect which no compensation accounts for.

    A step that is not transactional may have had one as soon as it ran; a transactional step when
    it succeeded. A pivot cannot be taken back, so its success is left over in any case.
    """
    accounts = _accounts(entries)
    return [each.name for each in steps if each.name in accounts and _is_owed(each, accounts)]


def _is_owed(step: Step, accounts: dict[str, Account]) -> bool:
    account = accounts[step.name]
    if step.compensation is None:
        return step.kind is Kind.PIVOT and bool(account.effects)
    may_have_left_something = account.ran > 0 and not step.transactional
    return bool(account.effects) or (may_have_left_something and not account.was_undone)


def _accounts(entries: Iterable[Recorded]) -> dict[str, Account]:
    accounts: dict[str, Account] = {}

    def of(step: str) -> Account:
        return accounts.setdefault(step, Account())

    for recorded in entries:
        match recorded.entry:
            case StepStarted() as intent:
                of(intent.step).intended(recorded.seq, intent)
            case StepReleased(direction=Direction.FORWARD, step=step):
                of(step).ran -= 1
            case StepWaiting(direction=Direction.FORWARD, step=step, reference=reference):
                of(step).waits(recorded.seq, reference)
            case StepSucceeded(direction=Direction.FORWARD, step=step) as success:
                of(step).succeeded(recorded.seq, success)
            case (
                LateOutcomeRecorded(direction=Direction.FORWARD, outcome="succeeded")
                | StepSettled(direction=Direction.FORWARD, landed=True)
                | StepProbed(direction=Direction.PROBE, landed=True)
                | EffectReported()
            ) as told:
                of(told.step).landed(recorded.seq, told)
            case StepSettled(direction=Direction.FORWARD, step=step, attempt=last):
                of(step).settled.append(last or of(step).started)
            case StepSucceeded(direction=Direction.COMPENSATE, step=step) as undo:
                of(step).undone(said_so=undo.undone is not False, reference=undo.reference)
            case StepSettled(direction=Direction.COMPENSATE, landed=True, step=step) as settled:
                of(step).undone(said_so=True, reference=settled.reference or settled.by)
            case StepProbed(direction=Direction.PROBE_UNDO, landed=True, step=step) as found:
                of(step).undone(said_so=True, reference=found.reference)
            case UndoFailed(step=step, reference=named):
                of(step).undo_failed(named)
            case StepSkipped(direction=Direction.COMPENSATE, step=step):
                of(step).given_up()
            case SagaMigrated(renamed=renamed):
                accounts = {renamed.get(name, name): each for name, each in accounts.items()}
            case UndoSkipped(step=step, undone_by=other):
                of(step).spared(of(other).undone_at)
            case _:
                pass
    return accounts
