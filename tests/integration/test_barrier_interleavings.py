"""Any order of actions and compensations of one step: the effects fit the answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.context import NothingThere
from orchestrator.errors import Terminal
from orchestrator.storage import barrier
from orchestrator.storage.barrier import LocalConnection
from tests.bank import (
    CREDIT,
    DEBIT,
    KINDS,
    Bank,
    Kind,
    Party,
    credits_back,
    debits,
    execute,
    is_no_verdict,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Somebody begins, in a transaction of their own; `pauses` before it answers, until `Go`."""

    verb: Callable[..., Any]
    pauses: bool = False
    kind: Kind = "connection"
    isolation: str = "READ COMMITTED"


@dataclass(frozen=True, slots=True)
class Go:
    """Those that pause go on, and from now on nobody pauses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One of those that have an answer and an open transaction ends it."""

    which: int = 0
    commits: bool = True


Plan = list[Start | Go | End]


@dataclass(slots=True)
class Run:
    """Does what a plan says, step by step, and notes what was answered and committed."""

    bank: Bank
    gate: Party
    moving: list[tuple[Start, Party]] = field(default_factory=list)
    holding: list[tuple[Start, Party]] = field(default_factory=list)
    committed: list[tuple[Callable[..., Any], Any]] = field(default_factory=list)
    waits: int = 0

    def follow(self, plan: Plan) -> None:
        for each in plan:
            match each:
                case Start():
                    self.start(each)
                case Go():
                    self.go()
                case End() if self.holding:
                    self.end(each)
                case End():
                    pass
        self.go()
        while self.holding:
            self.end(End())
        assert not self.moving

    def go(self) -> None:
        self.gate.commit()
        self.look()

    def start(self, start: Start) -> None:
        is_too_late = start.verb is debits and self.undone
        party = Party(self.bank, start.kind, start.isolation)
        self.moving.append((start, party))
        verb = partial(start.verb, pause=waits_for_the_gate) if start.pauses else start.verb
        party.does(verb)
        self.waits += party.is_blocked and not start.pauses
        self.look()
        assert not (is_too_late and party in [each for _, each in self.holding])

    def end(self, end: End) -> None:
        start, party = self.holding.pop(end.which % len(self.holding))
        if not end.commits:
            party.rollback()
        elif party.commits():
            self.committed.append((start.verb, party.answer))
        party.close()
        self.look()

    def look(self) -> None:
        """Sort out who has an answer by now; refusals end their transaction, as a step's would."""
        for each in list(self.moving):
            _, party = each
            party.settle()
            if not party.has_ended:
                continue
            self.moving.remove(each)
            if party.error is None:
                self.holding.append(each)
                continue
            assert is_no_verdict(party.error) or self.is_refusal(party.error), party.error
            party.rollback()
            party.close()
            return self.look()
        return None

    def is_refusal(self, error: BaseException | None) -> bool:
        return isinstance(error, Terminal) and error.decisive and bool(self.undone)

    @property
    def undone(self) -> list[Any]:
        return [answer for verb, answer in self.committed if verb is credits_back]

    def judge(self) -> None:
        """The effects fit the answers."""
        acted = [answer for verb, answer in self.committed if verb is debits]
        entries = self.bank.entries
        assert entries == [DEBIT, CREDIT][: len(entries)]
        assert len({repr(each) for each in acted}) <= 1
        assert len({repr(each) for each in self.undone}) <= 1
        was_empty = NothingThere() in self.undone
        assert bool(acted) == bool(entries)
        assert not (acted and was_empty)
        assert (CREDIT in entries) == bool(self.undone and not was_empty)


def shuts_the_gate(connection: LocalConnection) -> None:
    execute(connection, "SELECT pg_advisory_xact_lock(7)")


def waits_for_the_gate(connection: LocalConnection) -> None:
    execute(connection, "SELECT pg_advisory_xact_lock_shared(7)")


def follow(bank: Bank, plan: Plan) -> Run:
    run = Run(bank.empty(), Party(bank, "connection").does(shuts_the_gate))
    try:
        run.follow(plan)
    finally:
        for _, party in ((Go(), run.gate), *run.holding, *run.moving):
            party.close()
    run.judge()
    return run


starts = st.builds(
    Start,
    verb=st.sampled_from([debits, debits, credits_back]),
    pauses=st.booleans(),
    kind=st.sampled_from(KINDS),
    isolation=st.sampled_from(
        ["READ COMMITTED", "READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
    ),
)
ends = st.builds(End, which=st.integers(0, 2), commits=st.booleans())
ACT, UNDO = Start(verb=debits), Start(verb=credits_back)
SLOW_UNDO = Start(verb=credits_back, pauses=True)


def test_whatever_the_order_the_effects_fit_the_answers(bank: Bank) -> None:
    waits = []

    @settings(max_examples=80, deadline=None, derandomize=True)
    @given(plan=st.lists(starts | starts | ends | ends | st.just(Go()), min_size=3, max_size=10))
    @example(plan=[ACT, ACT, UNDO, End(commits=False), End(), UNDO, ACT])
    def follows(plan: Plan) -> None:
        waits.append(follow(bank, plan).waits)

    follows()
    assert sum(waits) >= 20, "plans in which nobody waits for anybody show little"


def looks_before_it_writes(connection: LocalConnection, ctx: Any, key: str, state: Any) -> bool:
    known = execute(connection, "SELECT FROM amends.barrier WHERE key = %(key)s", key=key)
    barrier_insert(connection, ctx, key, state)
    return not known


def looks_and_closes_nothing(connection: LocalConnection, _: Any, key: str) -> Any:
    known = execute(connection, "SELECT FROM amends.barrier WHERE key = %(key)s", key=key)
    if known:
        return barrier._read(connection, key)
    return barrier._Fate(key=key, state=barrier._State.CLOSED)


barrier_insert = barrier._insert


@pytest.mark.parametrize(
    ("part", "instead", "plan"),
    [
        pytest.param("_insert", lambda *_: True, [ACT, End(), ACT], id="no row"),
        pytest.param("_insert", looks_before_it_writes, [ACT, ACT], id="look, then write"),
        pytest.param("_closed", looks_and_closes_nothing, [UNDO, End(), ACT], id="open door"),
        pytest.param(
            "_READ",
            barrier._READ.replace("FOR UPDATE", ""),
            [ACT, End(), SLOW_UNDO, SLOW_UNDO, Go()],
            id="no lock",
        ),
    ],
)
def test_without_one_of_its_parts_the_effects_do_not_fit(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, part: str, instead: Any, plan: Plan
) -> None:
    follow(bank, plan)
    monkeypatch.setattr(barrier, part, instead)

    with pytest.raises(AssertionError):
        follow(bank, plan)
