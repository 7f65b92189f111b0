"""One saga's trouble is its own: whatever is wrong with one, the others go on and somebody is told.

Each test brings one saga into trouble, and has another one beside it that must not notice.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, field_validator

from orchestrator.client import SagaClient
from orchestrator.closing import Close
from orchestrator.context import Effect
from orchestrator.definition import Lock, SagaDefinition
from orchestrator.entries import SagaParked
from orchestrator.errors import PayloadError, StateConflictError
from orchestrator.going_forward import going_forward
from orchestrator.state import State
from orchestrator.storage.database import Database
from recovery.sweeper import Sweeper, SweepReport
from tests.histories import doing, saga
from tests.integration.engine import Engine, events

LEASE = timedelta(seconds=0.3)
Make = Callable[..., Engine]


@pytest.fixture
def make(database: str) -> Iterator[Make]:
    made: list[Engine] = []

    def build(*definitions: SagaDefinition[Any]) -> Engine:
        engine = Engine(database, *(definitions or (SHOP,)), lease=LEASE)
        made.append(engine)
        return engine

    yield build
    for each in made:
        each.close()


def paying(_context: Any) -> Effect:
    return Effect(reference="pay-1")


SHOP = saga(doing("pay", run=paying), doing("ship", pivot=True))

FORGED: dict[str, dict[str, Any]] = {
    "SagaStarted": {"payload": {}},
    "StepStarted": {"step": "ship", "direction": "forward", "attempt": 1, "owner": "mallory"},
    "StepSucceeded": {"step": "pay", "direction": "forward", "attempt": 1},
    "StepFailed": {
        "step": "pay",
        "direction": "forward",
        "attempt": 1,
        "terminal": True,
        "error": {},
    },
    "SignalReceived": {"name": "paid", "dedup_id": "1"},
    "SagaParked": {"state": "stuck", "reason": "unknown", "question": "?"},
    "SagaCompleted": {},
    "SagaCompensated": {},
    "SagaResolved": {"actor": "mallory", "reason": "mine"},
    "UnwindingStarted": {"cause": "cancelled"},
}
"""Entries that nobody should have written, of kinds that end, turn, answer, park and start."""


def forge(engine: Engine, saga_id: UUID, kind: str, values: Any, ahead: int = 1) -> None:
    """Write into a log as no statement of the engine does: the row's seq knows nothing of it."""
    engine.sql(
        "INSERT INTO amends.saga_log (saga_id, seq, kind, data) "
        "SELECT id, seq + :ahead, :kind, CAST(:data AS jsonb) FROM amends.saga WHERE id = :id",
        id=saga_id,
        kind=kind,
        data=json.dumps(values),
        ahead=ahead,
    )


def start(engine: Engine, key: str, definition: str = "shop") -> UUID:
    return engine.client.start(definition, {"amount": 1}, key=key).id


def due(engine: Engine) -> None:
    """Let everything be due that is not over."""
    engine.sql("UPDATE amends.saga SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")
    engine.sql("UPDATE amends.attempt SET lease_until = clock_timestamp() WHERE token IS NOT NULL")


def sweep(engine: Engine) -> SweepReport:
    return Sweeper(engine.coordinator, Database(engine.pool)).run_once()


def parked(engine: Engine, saga_id: UUID) -> tuple[str, str]:
    """The saga's state, and the reason it is parked for."""
    [(state, reason)] = engine.sql(
        "SELECT s.state, (SELECT l.data->>'reason' FROM amends.saga_log l WHERE l.saga_id = s.id "
        "AND l.kind = 'SagaParked' ORDER BY l.seq DESC LIMIT 1) FROM amends.saga s WHERE id = :id",
        id=saga_id,
    )
    return state, reason


# -- rows that nobody should have written ----------------------------------------------------------


@pytest.mark.parametrize("kind", FORGED)
@pytest.mark.parametrize("ahead", [1, 3])
def test_a_forged_entry_stops_its_own_saga_only(make: Make, kind: str, ahead: int) -> None:
    engine = make()
    victim, other = start(engine, "victim"), start(engine, "other")
    forge(engine, victim, kind, FORGED[kind], ahead)
    engine.bell.messages.clear()
    due(engine)
    with events() as heard:
        sweep(engine)
    assert parked(engine, victim) == ("stuck", "unreadable")
    assert [fields["saga_id"] for event, fields in heard if event == "saga.set_aside"] == [victim]
    assert engine.finish(other) == "completed"


def test_a_forged_entry_that_a_claim_meets_sets_its_saga_aside(make: Make) -> None:
    engine = make()
    victim = start(engine, "victim")
    forge(engine, victim, "SagaCompleted", {})
    engine.work()
    assert parked(engine, victim) == ("stuck", "unreadable")
    assert engine.attempts(victim) == []


def test_the_outcome_of_a_step_is_kept_though_its_place_in_the_log_was_taken(make: Make) -> None:
    engine = make()
    victim = start(engine, "victim")
    claim = engine.claim(victim)
    forge(engine, victim, "SagaCompleted", {})
    assert engine.coordinator.execute(claim) is None
    assert engine.kinds(victim)[-1] == "StepSucceeded"
    assert parked(engine, victim) == ("stuck", "unreadable")


def test_entries_that_were_forged_are_believed_by_nobody(make: Make) -> None:
    """Also such as fold well: what no statement of the engine wrote is for an operator to judge."""
    engine = make()
    victim = start(engine, "victim")
    forge(engine, victim, "CancelRequested", {"reason": "mine", "actor": "mallory"})
    for _ in range(2):
        due(engine)
        sweep(engine)
    assert parked(engine, victim) == ("stuck", "unreadable")
    [entry] = [each for each in engine.entries(victim) if isinstance(each, SagaParked)]
    assert entry.entries == [2]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("StepSucceeded", []),
        ("StepSucceeded", "text"),
        ("StepSucceeded", None),
        ("StepSucceeded", 5),
        ("StepSucceeded", {"nonsense": 1}),
        ("SagaStarted", {"payload": {}, "skipped": 5}),
        ("Nonsense", {}),
    ],
)
def test_an_entry_of_nonsense_stops_its_own_saga_only(make: Make, kind: str, values: Any) -> None:
    engine = make()
    victim, other = start(engine, "victim"), start(engine, "other")
    forge(engine, victim, kind, values)
    engine.sql("UPDATE amends.saga SET seq = seq + 1 WHERE id = :id", id=victim)
    due(engine)
    sweep(engine)
    assert parked(engine, victim) == ("stuck", "unreadable")
    assert engine.finish(other) == "completed"


def test_an_attempt_that_the_log_does_not_know_is_removed(make: Make) -> None:
    engine = make()
    victim, other = start(engine, "victim"), start(engine, "other")
    engine.sql(
        "INSERT INTO amends.attempt (saga_id, step, direction, number, queue, due_at, ring_at, "
        "timeout_for, token, owner, lease_until, timeout_at) SELECT :id, 'nonsense', 'forward', 7, "
        "'q', now(), now(), '1 s', gen_random_uuid(), 'mallory', now(), now()",
        id=victim,
    )
    sweep(engine)
    assert engine.attempts(victim) == [("pay", "forward", 1)]
    assert engine.finish(victim) == engine.finish(other) == "completed"


def test_a_saga_that_is_set_aside_is_put_off_longer_each_time_without_an_entry(make: Make) -> None:
    engine = make()
    victim = start(engine, "victim")
    forge(engine, victim, "SagaCompleted", {})
    waits = []
    for _ in range(3):
        due(engine)
        sweep(engine)
        [(seconds,)] = engine.sql(
            "SELECT extract(epoch FROM due_at - clock_timestamp())::float8 FROM amends.saga"
        )
        waits.append(round(seconds / 30))
    assert waits == [1, 2, 4]
    assert engine.kinds(victim).count("SagaParked") == 1


def test_a_late_effect_of_a_saga_that_is_set_aside_is_kept(make: Make) -> None:
    engine = make()
    victim = start(engine, "victim")
    claim = engine.claim(victim)
    engine.gives_up(claim)
    forge(engine, victim, "SagaCompleted", {})
    engine.coordinator.execute(claim)
    assert "LateOutcomeRecorded" in engine.kinds(victim)


def test_signals_reach_the_others_though_one_saga_cannot_hear(make: Make) -> None:
    engine = make()
    victim, other = start(engine, "victim"), start(engine, "other")
    forge(engine, victim, "SagaCompleted", {})
    for key in ("victim", "other"):
        engine.sql(
            "INSERT INTO amends.signal (definition, key, name, dedup_id, payload) "
            "VALUES ('shop', :key, 'paid', '1', '{}')",
            key=key,
        )
    sweep(engine)
    assert "SignalReceived" in engine.kinds(other)
    assert parked(engine, victim) == ("stuck", "unreadable")
    sweep(engine)
    assert "SignalReceived" in engine.kinds(victim)


def test_who_tells_a_saga_in_trouble_is_not_kept_from_it(make: Make) -> None:
    """A signal is kept, an effect is a fact, and a cancel gets a typed answer."""
    engine = make()
    for tell in (
        lambda saga_id: engine.client.signal(saga_id, "paid", dedup_id="1"),
        lambda saga_id: engine.client.report_effect(
            saga_id, "pay", Effect(reference="p-2"), by="webhook"
        ),
        lambda saga_id: engine.client.cancel(saga_id, reason="a test"),
    ):
        victim = engine.client.start("shop", {"amount": 1}, key=str(uuid4())).id
        engine.claim(victim)
        forge(engine, victim, "SagaCompleted", {})
        with contextlib.suppress(StateConflictError):
            tell(victim)
        due(engine)
        sweep(engine)
        sweep(engine)
        assert parked(engine, victim) == ("stuck", "unreadable")
    kinds = [row[0] for row in engine.sql("SELECT DISTINCT kind FROM amends.saga_log")]
    assert {"SignalReceived", "EffectReported"} <= set(kinds)
    assert "CancelRequested" not in kinds


# -- functions of a definition ---------------------------------------------------------------------


class Check:
    """A closing check that a test changes."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __call__(self, _closing: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("answer", [ValueError("a bug"), RecursionError(), None, "yes", Close])
def test_a_closing_check_that_is_no_answer_parks_its_saga_and_goes_on_once_mended(
    make: Make, answer: Any
) -> None:
    check = Check(answer)
    broken = saga(doing("pay", run=paying), name="broken", closing=check)
    engine = make(SHOP, broken)
    victim, other = start(engine, "victim", "broken"), start(engine, "other")
    engine.work()
    assert parked(engine, victim) == ("stuck", "closing_check")
    assert "StepSucceeded" in engine.kinds(victim)
    assert engine.client.get(other).state is State.COMPLETED
    check.answer = Close()
    due(engine)
    sweep(engine)
    assert engine.client.get(victim).state is State.COMPLETED


def undecidable(monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    """Let deciding raise for every saga named *broken* of which that step is done."""
    forward = going_forward

    def raising(definition: Any, state: Any, now: Any, seed: str) -> Any:
        if definition.name == "broken" and state.step(after).is_done:
            raise KeyError("a bug")
        return forward(definition, state, now, seed)

    monkeypatch.setattr("orchestrator.state_machine.going_forward", raising)


def test_an_outcome_is_recorded_though_nobody_can_decide_what_follows(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(SHOP, saga(doing("pay", run=paying), doing("ship", pivot=True), name="broken"))
    victim, other = start(engine, "victim", "broken"), start(engine, "other")
    with monkeypatch.context() as patched:
        undecidable(patched, "pay")
        engine.work()
        assert engine.kinds(victim)[-2:] == ["StepSucceeded", "SagaParked"]
        assert parked(engine, victim) == ("stuck", "undecidable")
        assert engine.client.get(other).state is State.COMPLETED
        due(engine)
        sweep(engine)
        assert engine.kinds(victim)[-1] == "SagaParked"
    due(engine)
    sweep(engine)
    assert engine.finish(victim) == "completed"


class Strict(BaseModel):
    """A model that another deploy made stricter."""

    amount: int

    @field_validator("amount")
    @classmethod
    def _is_large(cls, amount: int) -> int:
        if STRICT and amount < 10:
            raise ValueError("too small")
        return amount


STRICT: list[bool] = []


@pytest.fixture
def strict() -> Iterator[list[bool]]:
    yield STRICT
    STRICT.clear()


def test_a_payload_that_fits_no_more_spends_no_budget_and_goes_on_once_it_fits(
    make: Make, strict: list[bool]
) -> None:
    engine = make(
        SHOP, saga(doing("pay", run=paying), doing("ship", pivot=True), name="s", payload=Strict)
    )
    victim, other = start(engine, "victim", "s"), start(engine, "other")
    strict.append(True)
    engine.work()
    assert parked(engine, victim) == ("stuck", "payload")
    assert {"StepFailed", "StepSucceeded"}.isdisjoint(engine.kinds(victim))
    assert engine.client.get(other).state is State.COMPLETED
    due(engine)
    sweep(engine)
    assert parked(engine, victim) == ("stuck", "payload")
    strict.clear()
    due(engine)
    sweep(engine)
    assert engine.finish(victim) == "completed"


def test_a_condition_or_a_lock_that_raises_refuses_its_own_row_only(make: Make) -> None:
    def raising(order: Any) -> Any:
        if order.amount == 2:
            raise ZeroDivisionError
        return True

    engine = make(
        saga(doing("pay", when=raising)), saga(doing("pay"), name="l", lock=Lock(on=raising))
    )
    rows = [(f"o-{amount}", {"amount": amount}) for amount in (1, 2, 3)]
    answers = list(engine.client.start_many("shop", rows))
    assert [type(each).__name__ for each in answers] == ["Started", "NotStarted", "Started"]
    with pytest.raises(PayloadError, match="locks"):
        engine.client.start("l", {"amount": 2}, key="x")


# -- many that wait for one another ----------------------------------------------------------------


def test_four_hundred_sagas_in_line_past_their_deadline_end_without_recursion(make: Make) -> None:
    one_at_a_time = saga(
        doing("pay"),
        lock=Lock(on=lambda _: "till"),
        deadline=timedelta(milliseconds=1),
    )
    engine = make(one_at_a_time)
    rows = [(f"o-{number}", {"amount": 1}) for number in range(400)]
    stranger = SagaClient(engine.pool, engine.bell)  # looks at none of them
    list(stranger.start_many(one_at_a_time, rows))
    left = 400
    for _ in range(20):
        due(engine)
        with events() as heard:
            sweep(engine)
        assert {"saga.look_failed", "saga.set_aside"}.isdisjoint(event for event, _ in heard)
        [(left,)] = engine.sql("SELECT count(*) FROM amends.saga WHERE due_at IS NOT NULL")
        if not left:
            return
        engine.work()
    raise AssertionError(f"{left} are left")
