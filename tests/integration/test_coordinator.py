"""Claim, run, record, hand on: on a real Postgres, with everything that may come between."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

from orchestrator.context import Effect, Lease, StepContext
from orchestrator.definition import SagaDefinition
from orchestrator.entries import LateOutcomeRecorded, UnknownReason
from orchestrator.errors import LogUnavailableError, Retriable, Terminal, Wait
from orchestrator.folding import replay
from orchestrator.storage import statements
from orchestrator.storage.rows import AttemptId
from tests.histories import QUICK, doing, saga
from tests.integration.engine import (
    Engine,
    answer_lost,
    attempt_of,
    events,
    read_only,
    wait_until,
)

Behave = Callable[[StepContext[Any]], Any]


class Scripted:
    """Steps whose behaviour a test sets; every call is noted."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int]] = []
        self.keys: list[str] = []
        self.behave: dict[tuple[str, str], Behave] = {}

    def __call__(self, context: StepContext[Any]) -> Any:
        self.calls.append((context.step, context.direction, context.attempt))
        self.keys.append(context.idempotency_key)
        behave = self.behave.get((context.step, context.direction))
        return None if behave is None else behave(context)

    def on(self, step: str, behave: Behave, direction: str = "forward") -> None:
        self.behave[step, direction] = behave


@pytest.fixture
def script() -> Scripted:
    return Scripted()


@pytest.fixture
def shop(script: Scripted) -> SagaDefinition[Any]:
    return saga(
        doing("reserve", run=script, compensation=script),
        doing("pay", run=script, compensation=script),
        doing("ship", run=script, pivot=True),
    )


@pytest.fixture
def fan(script: Scripted) -> SagaDefinition[Any]:
    return saga(
        doing("a", run=script, compensation=script),
        doing("b", run=script, compensation=script, after=()),
        doing("c", run=script, compensation=script, after=("a", "b")),
        name="fan",
    )


@pytest.fixture
def books(script: Scripted) -> SagaDefinition[Any]:
    return saga(doing("book", run=script, compensation=script, transactional=True), name="books")


@pytest.fixture
def engine(
    database: str, shop: SagaDefinition[Any], fan: SagaDefinition[Any], books: SagaDefinition[Any]
) -> Iterator[Engine]:
    made = Engine(database, shop, fan, books)
    made.sql("CREATE TABLE IF NOT EXISTS public.book (line text)")
    yield made
    made.close()


def start(engine: Engine, name: str = "shop", key: str = "order-1") -> Any:
    return engine.client.start(name, {"amount": 1}, key=key).id


def declined(_context: StepContext[Any]) -> None:
    raise Terminal("declined", decisive=True)


# -- the road --------------------------------------------------------------------------------------


@pytest.mark.parametrize("inline", [False, True])
def test_a_saga_runs_to_its_end(engine: Engine, script: Scripted, inline: bool) -> None:
    saga_id = start(engine)
    engine.work(inline=inline)
    assert engine.client.get(saga_id).state == "completed"
    assert [name for name, _, _ in script.calls] == ["reserve", "pay", "ship"]
    assert engine.attempts(saga_id) == []


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("name", ["shop", "fan"])
def test_the_database_and_the_fold_agree_about_every_saga(
    engine: Engine, script: Scripted, inline: bool, name: str
) -> None:
    script.on("pay", declined)
    script.on("c", declined)
    saga_id = start(engine, name)
    assert engine.finish(saga_id, inline=inline) == "compensated"
    entries = engine.coordinator.log.entries(saga_id)
    assert [each.seq for each in entries] == list(range(1, len(entries) + 1))
    assert replay(entries).phase == engine.client.get(saga_id).state
    assert engine.client.get(saga_id).seq == len(entries)


def test_the_intent_is_committed_before_the_step_is_called(
    engine: Engine, script: Scripted
) -> None:
    seen: list[str] = []
    script.on("reserve", lambda context: seen.extend(engine.kinds(context.saga_id)))
    start(engine)
    engine.work()
    assert seen == ["SagaStarted", "StepStarted"]


def test_a_step_sees_the_results_of_those_before_it(engine: Engine, script: Scripted) -> None:
    script.on("reserve", lambda _: {"items": 2})
    seen: list[Any] = []
    script.on("pay", lambda context: seen.append(dict(context.results)))
    start(engine)
    engine.work(inline=True)
    assert seen == [{"reserve": {"items": 2}}]


def test_an_undo_is_given_the_effect_it_undoes(engine: Engine, script: Scripted) -> None:
    script.on("reserve", lambda _: Effect(value=1, reference="r-1"))
    script.on("pay", declined)
    seen: list[Any] = []
    script.on("reserve", lambda context: seen.append(context.effect), "compensate")
    saga_id = start(engine)
    assert engine.finish(saga_id) == "compensated"
    assert [each.reference for each in seen] == ["r-1"]


def test_side_by_side_steps_are_each_run_once(engine: Engine, script: Scripted) -> None:
    saga_id = start(engine, "fan")
    engine.work(inline=True)
    assert engine.client.get(saga_id).state == "completed"
    assert sorted(script.calls) == [(name, "forward", 1) for name in "abc"]


def test_large_numbers_do_not_make_a_result_look_like_a_strangers(
    engine: Engine, script: Scripted
) -> None:
    script.on("reserve", lambda _: [1e23, 1.5e300, 0.1, -0.0, 5e-324])
    saga_id = start(engine)
    with answer_lost("record.commit", applied=True):
        engine.work()
    assert engine.kinds(saga_id).count("LateOutcomeRecorded") == 0
    assert engine.client.get(saga_id).state == "completed"


# -- claiming --------------------------------------------------------------------------------------


def test_a_duplicate_message_claims_nothing(engine: Engine, script: Scripted) -> None:
    saga_id = start(engine)
    engine.bell.messages.extend([*engine.bell.messages] * 3)
    engine.work()
    assert engine.client.get(saga_id).state == "completed"
    assert len(script.calls) == 3


def test_fifty_threads_claim_one_attempt_once(engine: Engine) -> None:
    saga_id = start(engine)
    attempt = AttemptId(saga_id=saga_id, step="reserve", direction="forward", number=1)
    claims: list[Any] = []
    threads = [
        threading.Thread(target=lambda: claims.append(engine.coordinator.claim(attempt)))
        for _ in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sum(each is not None for each in claims) == 1
    assert engine.kinds(saga_id) == ["SagaStarted", "StepStarted"]


@pytest.mark.parametrize(
    "forged",
    [
        {"saga_id": uuid4()},
        {"step": "ship"},
        {"step": "'; DROP TABLE amends.saga; --"},
        {"direction": "compensate"},
        {"direction": "sideways"},
        {"number": 2},
        {"number": -1},
    ],
)
def test_a_forged_message_changes_nothing(engine: Engine, forged: dict[str, Any]) -> None:
    saga_id = start(engine)
    values = {"saga_id": saga_id, "step": "reserve", "direction": "forward", "number": 1}
    assert engine.coordinator.claim(AttemptId(**{**values, **forged})) is None
    assert engine.kinds(saga_id) == ["SagaStarted"]


def test_an_attempt_that_is_not_due_cannot_be_claimed(engine: Engine, script: Scripted) -> None:
    def busy(_context: StepContext[Any]) -> None:
        raise Retriable("busy", retry_after=timedelta(minutes=1))

    script.on("reserve", busy)
    saga_id = start(engine)
    engine.work()
    [(step, direction, number)] = engine.attempts(saga_id)
    assert number == 2
    attempt = AttemptId(saga_id=saga_id, step=step, direction=direction, number=number)
    assert engine.coordinator.claim(attempt) is None


def test_a_worker_without_the_definition_leaves_the_saga_alone(
    engine: Engine, database: str
) -> None:
    saga_id = start(engine)
    other = Engine(database, saga(doing("reserve"), doing("something_else")))
    try:
        attempt = AttemptId(saga_id=saga_id, step="reserve", direction="forward", number=1)
        assert other.coordinator.claim(attempt) is None
        assert other.coordinator.mover.look(saga_id) is None
    finally:
        other.close()
    assert engine.kinds(saga_id) == ["SagaStarted"]


def test_a_draining_worker_claims_nothing_more(engine: Engine) -> None:
    saga_id = start(engine)
    engine.drains = True
    engine.work()
    assert engine.kinds(saga_id) == ["SagaStarted"]


def test_a_draining_worker_does_not_go_on_in_place(engine: Engine, script: Scripted) -> None:
    def stopping(_context: StepContext[Any]) -> None:
        engine.drains = True

    script.on("reserve", stopping)
    saga_id = start(engine)
    engine.work(inline=True)
    assert [name for name, _, _ in script.calls] == ["reserve"]
    assert engine.attempts(saga_id) == [("pay", "forward", 1)]


def test_a_draining_worker_hands_back_what_it_has_not_begun(
    engine: Engine, script: Scripted
) -> None:
    saga_id = start(engine)
    claim = engine.claim(saga_id)
    engine.drains = True
    assert engine.coordinator.execute(claim) is None
    assert engine.kinds(saga_id)[-1] == "StepReleased"
    assert script.calls == []
    assert engine.attempts(saga_id) == [("reserve", "forward", 2)]


def test_a_row_the_log_no_longer_asks_for_is_handed_back_uncalled(
    engine: Engine, script: Scripted
) -> None:
    """A row can outlive the decision that wanted it, for example after a restore."""
    script.on("pay", declined)
    saga_id = start(engine)
    engine.finish(saga_id)
    engine.sql(
        "INSERT INTO amends.attempt (saga_id, step, direction, number, queue, due_at, ring_at, "
        "timeout_for) VALUES (:id, 'ship', 'forward', 1, 'amends', now(), now(), '30 s')",
        id=saga_id,
    )
    attempt = AttemptId(saga_id=saga_id, step="ship", direction="forward", number=1)
    assert engine.coordinator.claim(attempt) is None
    assert ("ship", "forward", 1) not in script.calls
    assert engine.client.get(saga_id).state == "compensated"
    assert engine.attempts(saga_id) == []


def test_a_cancel_that_came_before_the_claim_keeps_the_step_from_being_called(
    engine: Engine, script: Scripted
) -> None:
    saga_id = start(engine)
    engine.client.cancel(saga_id, reason="no")
    engine.work()
    assert script.calls == []
    assert engine.client.get(saga_id).state == "compensated"


def test_a_payload_this_worker_cannot_read_is_no_effect_and_no_unknown(
    engine: Engine, database: str, shop: SagaDefinition[Any], script: Scripted
) -> None:
    class Stricter(BaseModel):
        amount: int
        coupon: str

    saga_id = start(engine)
    other = Engine(database, saga(*shop.steps, payload=Stricter))
    try:
        other.coordinator.execute(other.claim(saga_id))
    finally:
        other.close()
    assert engine.kinds(saga_id)[-1] == "StepFailed"
    assert script.calls == []


def test_a_log_with_entries_of_a_newer_version_is_left_as_it_is(engine: Engine) -> None:
    saga_id = start(engine)
    write(engine, saga_id, "NoteAdded", "{}")
    assert engine.coordinator.claim(attempt_of(engine.bell.messages[0])) is None
    assert engine.sql("SELECT kind FROM amends.saga_log ORDER BY seq") == [
        ("SagaStarted",),
        ("NoteAdded",),
    ]
    assert engine.sql("SELECT token FROM amends.attempt") == [(None,)]


@pytest.mark.parametrize("applied", [None, True])
def test_a_damaged_log_costs_its_claim_and_not_the_worker(
    engine: Engine, applied: bool | None
) -> None:
    saga_id = start(engine)
    write(engine, saga_id, "SagaCompensated", "{}")
    lost = (
        contextlib.nullcontext()
        if applied is None
        else answer_lost("claim.commit", applied=applied)
    )
    with events() as heard, lost:
        assert engine.coordinator.claim(attempt_of(engine.bell.messages[0])) is None
    assert [event for event, _ in heard].count("saga.unreadable") == 1
    assert engine.coordinator.leases.holdings == []


def write(engine: Engine, saga_id: Any, kind: str, values: str) -> None:
    """Append to a log what this version would not."""
    engine.sql(
        "INSERT INTO amends.saga_log (saga_id, seq, kind, data) VALUES (:s, 2, :k, :v)",
        s=saga_id,
        k=kind,
        v=values,
    )
    engine.sql("UPDATE amends.saga SET seq = 2")


def test_a_saga_whose_steps_are_all_left_out_completes(database: str) -> None:
    idle = saga(doing("wrap", when=lambda order: order.gift), name="idle")
    engine = Engine(database, idle)
    try:
        assert engine.finish(start(engine, "idle")) == "completed"
    finally:
        engine.close()


# -- fences ----------------------------------------------------------------------------------------


def taken_away(engine: Engine, saga_id: Any) -> Any:
    """A claim that was given up while its worker still believes in it."""
    claim = engine.claim(saga_id)
    assert engine.gives_up(claim)
    return claim


def test_a_late_worker_cannot_record_after_its_attempt_was_given_up(engine: Engine) -> None:
    saga_id = start(engine)
    claim = taken_away(engine, saga_id)
    with events() as heard:
        assert engine.coordinator.execute(claim) is None
    assert engine.kinds(saga_id).count("StepSucceeded") == 0
    assert [event for event, _ in heard if event == "saga.stale_result_refused"]


def test_a_refused_result_is_kept_as_a_late_outcome_once(engine: Engine, script: Scripted) -> None:
    script.on("reserve", lambda _: Effect(value=1, reference="r-1"))
    saga_id = start(engine)
    claim = taken_away(engine, saga_id)
    engine.coordinator.execute(claim)
    engine.coordinator.execute(claim)
    late = [e for e in engine.entries(saga_id) if isinstance(e, LateOutcomeRecorded)]
    assert [(each.outcome, each.reference, each.attempt) for each in late] == [
        ("succeeded", "r-1", 1)
    ]


def test_without_the_token_in_its_statement_a_stale_result_would_be_accepted(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fence is what refuses it, and nothing else happens to."""
    saga_id = start(engine)
    claim = engine.claim(saga_id)
    engine.sql("UPDATE amends.attempt SET token = :other", other=uuid4())
    for name in ("ADVANCE", "APPEND_OUTCOME"):
        unfenced = getattr(statements, name).replace(statements.HOLDS_TOKEN, "true")
        assert unfenced != getattr(statements, name)
        monkeypatch.setattr(statements, name, unfenced)
    engine.coordinator.execute(claim)
    assert "StepSucceeded" in engine.kinds(saga_id)


def test_with_the_token_in_its_statement_the_same_result_is_refused(engine: Engine) -> None:
    saga_id = start(engine)
    claim = engine.claim(saga_id)
    engine.sql("UPDATE amends.attempt SET token = :other", other=uuid4())
    engine.coordinator.execute(claim)
    assert "StepSucceeded" not in engine.kinds(saga_id)


def test_an_attempt_whose_lease_is_alive_is_not_taken_over(engine: Engine) -> None:
    saga_id = start(engine)
    claim = engine.claim(saga_id)
    assert not engine.gives_up(claim, UnknownReason.LEASE_LOST)
    assert engine.kinds(saga_id)[-1] == "StepStarted"


def test_an_attempt_whose_lease_is_over_is_taken_over_and_repeated(
    engine: Engine, script: Scripted
) -> None:
    saga_id = start(engine)
    claim = engine.claim(saga_id)
    engine.sql("UPDATE amends.attempt SET lease_until = clock_timestamp() - interval '1 s'")
    assert engine.gives_up(claim, UnknownReason.LEASE_LOST)
    assert not engine.coordinator.mover.give_up(_row(claim), UnknownReason.LEASE_LOST)
    assert engine.finish(saga_id) == "completed"
    assert script.calls[0] == ("reserve", "forward", 2)


def _row(claim: Any) -> Any:
    from orchestrator.storage.rows import OpenAttempt  # noqa: PLC0415

    return OpenAttempt(
        id=claim.attempt, queue="amends", token=claim.token, owner=None, is_expired=True
    )


def test_all_attempts_of_a_step_use_one_key(engine: Engine, script: Scripted) -> None:
    saga_id = start(engine)
    taken_away(engine, saga_id)
    engine.finish(saga_id)
    claim_keys = {
        key for key, call in zip(script.keys, script.calls, strict=True) if call[0] == "reserve"
    }
    assert len(claim_keys) == 1


def test_a_late_success_of_a_saga_that_went_another_way_is_compensated(
    engine: Engine, script: Scripted
) -> None:
    saga_id = start(engine)
    engine.bell.messages.clear()
    claim = taken_away(engine, saga_id)
    script.on("reserve", declined)
    assert engine.finish(saga_id) == "compensated"
    script.on("reserve", lambda _: Effect(reference="r-late"))
    engine.coordinator.execute(claim)
    assert engine.client.get(saga_id).state == "compensating"
    assert engine.finish(saga_id) == "compensated"
    assert script.calls[-1] == ("reserve", "compensate", 2)


def test_the_fact_that_a_late_effect_is_there_survives_a_lost_connection(
    engine: Engine, script: Scripted
) -> None:
    script.on("reserve", lambda _: Effect(reference="r-late"))
    saga_id = start(engine)
    claim = taken_away(engine, saga_id)
    engine.client.cancel(saga_id, reason="no")
    with answer_lost("decide.commit", applied=False, times=2) as lost:
        engine.coordinator.execute(claim)
    assert len(lost) == 2
    assert engine.kinds(saga_id).count("LateOutcomeRecorded") == 1


def over(claim: Any) -> Any:
    claim.lease.valid_until = time.monotonic()
    return claim


@pytest.mark.parametrize("name", ["shop", "books"])
def test_a_step_is_not_called_once_its_lease_is_over(
    engine: Engine, script: Scripted, name: str
) -> None:
    saga_id = start(engine, name)
    engine.coordinator.execute(over(engine.claim(saga_id)))
    assert script.calls == []
    assert engine.kinds(saga_id)[-1] == "StepReleased"


def test_who_waits_at_the_gate_until_its_lease_ends_is_handed_back_and_not_blamed(
    engine: Engine, script: Scripted
) -> None:
    saga_id = start(engine)
    claim = engine.claim(saga_id)
    claim.lease.valid_until = time.monotonic() + 0.4
    long = Lease(valid_until=time.monotonic() + 60, ends_at=time.monotonic() + 60)
    with engine.coordinator.gate.entered(long, alone=True):
        engine.coordinator.execute(claim)
    assert script.calls == []
    assert engine.kinds(saga_id)[-1] == "StepReleased"
    assert engine.attempts(saga_id) == [("reserve", "forward", 2)]


# -- facts against decisions -----------------------------------------------------------------------


def test_a_result_is_not_lost_when_the_saga_moved_meanwhile(
    engine: Engine, script: Scripted
) -> None:
    def cancelling(context: StepContext[Any]) -> None:
        engine.client.cancel(context.saga_id, reason="no")

    script.on("reserve", cancelling)
    saga_id = start(engine)
    assert engine.finish(saga_id) == "compensated"
    kinds = engine.kinds(saga_id)
    assert kinds[:5] == [
        "SagaStarted",
        "StepStarted",
        "CancelRequested",
        "StepSucceeded",
        "UnwindingStarted",
    ]


def test_siblings_that_end_at_the_same_time_lead_to_one_next_step(
    engine: Engine, script: Scripted
) -> None:
    barrier = threading.Barrier(2, timeout=10)
    script.on("a", lambda _: barrier.wait() and None)
    script.on("b", lambda _: barrier.wait() and None)
    saga_id = start(engine, "fan")
    claims = [engine.claim(saga_id, "a"), engine.claim(saga_id, "b")]
    threads = [threading.Thread(target=engine.coordinator.execute, args=(c,)) for c in claims]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert engine.finish(saga_id) == "completed"
    assert script.calls.count(("c", "forward", 1)) == 1


def test_a_scheduled_sibling_is_withdrawn_when_the_saga_turns_round(
    engine: Engine, script: Scripted
) -> None:
    script.on("a", declined)
    saga_id = start(engine, "fan")
    engine.coordinator.execute(engine.claim(saga_id, "a"))
    assert engine.attempts(saga_id) == [("a", "compensate", 1)]


def test_a_sibling_scheduled_by_a_look_is_withdrawn_too(engine: Engine, script: Scripted) -> None:
    """A look writes rows without raising the seq; the next decision must still know of them."""

    def wait(_context: StepContext[Any]) -> None:
        raise Wait("answer", datetime.now(UTC) + timedelta(seconds=0.2))

    script.on("b", wait)
    saga_id = start(engine, "fan")
    engine.coordinator.execute(engine.claim(saga_id, "b"))
    claim = engine.claim(saga_id, "a")

    def scheduled() -> bool:
        engine.coordinator.mover.look(saga_id)
        return ("b", "forward", 2) in engine.attempts(saga_id)

    wait_until(scheduled)
    script.on("a", declined)
    engine.coordinator.execute(claim)
    assert ("b", "forward", 2) not in engine.attempts(saga_id)


def test_looking_again_and_again_changes_nothing(engine: Engine) -> None:
    saga_id = start(engine, "fan")
    for _ in range(3):
        engine.coordinator.mover.look(saga_id)
    assert engine.kinds(saga_id) == ["SagaStarted"]
    assert engine.attempts(saga_id) == [("a", "forward", 1), ("b", "forward", 1)]


def test_an_open_attempt_whose_row_is_gone_is_found_by_a_look(
    engine: Engine, script: Scripted
) -> None:
    saga_id = start(engine)
    engine.bell.messages.clear()
    engine.claim(saga_id)
    engine.sql("DELETE FROM amends.attempt")
    assert engine.finish(saga_id) == "completed"
    assert "StepUnknown" in engine.kinds(saga_id)
    assert script.calls[0] == ("reserve", "forward", 2)


def test_a_sibling_that_waits_makes_the_saga_due_when_its_wait_ends(
    engine: Engine, script: Scripted
) -> None:
    def wait(_context: StepContext[Any]) -> None:
        raise Wait("answer", datetime.now(UTC) + timedelta(seconds=30))

    script.on("b", wait)
    saga_id = start(engine, "fan")
    engine.claim(saga_id, "a")
    engine.coordinator.execute(engine.claim(saga_id, "b"))
    [(seconds,)] = engine.sql(
        "SELECT extract(epoch FROM due_at - clock_timestamp()) FROM amends.saga WHERE id = :id",
        id=saga_id,
    )
    assert seconds < 31


# -- waiting for a signal --------------------------------------------------------------------------


def test_a_waiting_saga_is_seen_as_waiting_and_has_a_due_time(
    engine: Engine, script: Scripted
) -> None:
    def wait(_context: StepContext[Any]) -> None:
        raise Wait("answer", datetime.now(UTC) + timedelta(minutes=5))

    script.on("reserve", wait)
    saga_id = start(engine)
    engine.work()
    found = engine.client.get(saga_id)
    assert found.state == "waiting"
    assert found.due_at is not None
    assert engine.attempts(saga_id) == []


def test_a_waiting_saga_goes_on_when_its_moment_passes(engine: Engine, script: Scripted) -> None:
    signals: list[Any] = []

    def wait_once(context: StepContext[Any]) -> None:
        if context.attempt == 1:
            raise Wait("answer", datetime.now(UTC) + timedelta(seconds=0.2))
        signals.append(context.signal)

    script.on("reserve", wait_once)
    saga_id = start(engine)
    assert engine.finish(saga_id) == "completed"
    assert signals == [None]


# -- answers that were lost ------------------------------------------------------------------------


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("action", ["claim.commit", "record.commit"])
def test_a_lost_answer_costs_nothing_but_time(
    engine: Engine, script: Scripted, action: str, applied: bool, inline: bool
) -> None:
    saga_id = start(engine)
    with answer_lost(action, applied=applied) as lost:
        state = engine.finish(saga_id, inline=inline)
    assert lost == [action]
    assert state == "completed"
    assert len(script.calls) == 3
    assert "LateOutcomeRecorded" not in engine.kinds(saga_id)


@pytest.mark.parametrize("applied", [True, False])
def test_a_last_try_runs_alone_also_when_the_answer_to_its_claim_was_lost(
    engine: Engine, applied: bool
) -> None:
    saga_id = start(engine)
    for _ in range(2):
        assert engine.gives_up(engine.claim(saga_id))
    wait_until(lambda: engine.sql("SELECT due_at <= clock_timestamp() FROM amends.attempt")[0][0])
    with answer_lost("claim.commit", applied=applied) as lost:
        claim = engine.claim(saga_id)
    assert lost
    assert claim.alone


@pytest.mark.parametrize("applied", [True, False])
def test_an_answer_lost_twice_is_asked_for_again(
    engine: Engine, script: Scripted, applied: bool
) -> None:
    saga_id = start(engine)
    with answer_lost("record.commit", applied=applied, times=2) as lost:
        assert engine.finish(saga_id, inline=True) == "completed"
    assert len(lost) == 2
    assert len(script.calls) == 3


@pytest.mark.parametrize("applied", [True, False])
def test_a_lost_answer_to_a_fact_costs_nothing_but_time(
    engine: Engine, script: Scripted, applied: bool
) -> None:
    def cancelling(context: StepContext[Any]) -> None:
        engine.client.cancel(context.saga_id, reason="no")

    script.on("reserve", cancelling)
    saga_id = start(engine)
    with answer_lost("record.commit", applied=applied, times=2):
        assert engine.finish(saga_id) == "compensated"
    assert engine.kinds(saga_id).count("StepSucceeded") == 2


@pytest.mark.parametrize("applied", [True, False])
def test_a_start_whose_answer_was_lost_can_be_repeated(engine: Engine, applied: bool) -> None:
    with answer_lost("start.commit", applied=applied), pytest.raises(Exception, match="broke"):
        start(engine)
    saga_id = start(engine)
    assert engine.finish(saga_id) == "completed"
    assert engine.sql("SELECT count(*) FROM amends.saga") == [(1,)]


def test_an_outcome_outlives_a_fail_over(engine: Engine, database: str) -> None:
    """For a while Postgres answers, as a standby does: it reads and does not write."""
    saga_id = start(engine)
    claim = engine.claim(saga_id)
    with read_only(database):
        thread = threading.Thread(target=engine.coordinator.execute, args=(claim,))
        thread.start()
        with pytest.raises(LogUnavailableError):
            start(engine, key="order-2")
    thread.join(20)
    assert engine.kinds(saga_id) == ["SagaStarted", "StepStarted", "StepSucceeded"]


# -- transactional steps ---------------------------------------------------------------------------


def writes(context: StepContext[Any]) -> str:
    assert context.connection is not None
    context.connection.exec_driver_sql("INSERT INTO public.book VALUES ('written')")
    return "done"


def lines(engine: Engine) -> int:
    [(count,)] = engine.sql("SELECT count(*) FROM public.book")
    return int(count)


def test_a_transactional_step_and_its_entry_commit_together(
    engine: Engine, script: Scripted
) -> None:
    script.on("book", writes)
    saga_id = start(engine, "books")
    engine.work()
    assert engine.client.get(saga_id).state == "completed"
    assert lines(engine) == 1


def test_a_transactional_step_whose_token_is_gone_is_rolled_back(
    engine: Engine, script: Scripted
) -> None:
    script.on("book", writes)
    saga_id = start(engine, "books")
    claim = taken_away(engine, saga_id)
    engine.coordinator.execute(claim)
    assert lines(engine) == 0
    assert "LateOutcomeRecorded" not in engine.kinds(saga_id)
    assert "StepSucceeded" not in engine.kinds(saga_id)


def test_an_error_before_the_commit_is_no_effect(engine: Engine, script: Scripted) -> None:
    def writes_and_fails(context: StepContext[Any]) -> None:
        writes(context)
        if context.attempt == 1:
            raise RuntimeError("half-way")

    script.on("book", writes_and_fails)
    saga_id = start(engine, "books")
    assert engine.finish(saga_id) == "completed"
    assert lines(engine) == 1
    assert "StepUnknown" not in engine.kinds(saga_id)


def test_a_failing_statement_of_the_step_is_no_effect(engine: Engine, script: Scripted) -> None:
    def breaks(context: StepContext[Any]) -> None:
        assert context.connection is not None
        if context.attempt == 1:
            context.connection.exec_driver_sql("SELECT 1 / 0")

    script.on("book", breaks)
    assert engine.finish(start(engine, "books")) == "completed"


def test_a_step_that_lost_to_others_in_postgres_spends_no_budget(
    engine: Engine, script: Scripted
) -> None:
    def loses(context: StepContext[Any]) -> None:
        assert context.connection is not None
        if context.attempt <= 2 * QUICK.max_attempts:
            context.connection.exec_driver_sql(
                "DO $$ BEGIN RAISE 'deadlock' USING ERRCODE = '40P01'; END $$"
            )

    script.on("book", loses)
    assert engine.finish(start(engine, "books")) == "completed"


def test_a_step_that_swallows_its_failed_statement_does_not_lose_its_outcome(
    engine: Engine, script: Scripted
) -> None:
    def swallows(context: StepContext[Any]) -> None:
        writes(context)
        if context.attempt == 1:
            with contextlib.suppress(Exception):
                context.connection.exec_driver_sql("SELECT 1 / 0")  # type: ignore[union-attr]

    script.on("book", swallows)
    saga_id = start(engine, "books")
    assert engine.finish(saga_id) == "completed"
    assert lines(engine) == 1
    assert engine.kinds(saga_id)[2] == "StepFailed"


@pytest.mark.parametrize("swallowed", [True, False])
def test_a_step_that_commits_itself_is_refused_and_nothing_is_committed(
    engine: Engine, script: Scripted, swallowed: bool
) -> None:
    def commits(context: StepContext[Any]) -> None:
        writes(context)
        try:
            context.connection.commit()  # type: ignore[union-attr]
        except Exception:
            if not swallowed:
                raise

    script.on("book", commits)
    saga_id = start(engine, "books")
    engine.work()
    assert lines(engine) == 0
    assert engine.kinds(saga_id)[2] == "StepFailed"
    assert "commit" in (engine.client.get(saga_id).last_error or "")


def test_a_step_that_rolls_back_itself_is_refused(engine: Engine, script: Scripted) -> None:
    script.on("book", lambda context: writes(context) and context.connection.rollback())  # type: ignore[union-attr]
    saga_id = start(engine, "books")
    engine.work()
    assert engine.kinds(saga_id)[2] == "StepFailed"


def test_a_step_may_use_savepoints(engine: Engine, script: Scripted) -> None:
    def nested(context: StepContext[Any]) -> None:
        assert context.connection is not None
        with context.connection.begin_nested():
            writes(context)

    script.on("book", nested)
    assert engine.finish(start(engine, "books")) == "completed"
    assert lines(engine) == 1


@pytest.mark.parametrize("applied", [True, False])
def test_an_error_from_the_commit_is_answered_by_the_log(
    engine: Engine, script: Scripted, applied: bool
) -> None:
    script.on("book", writes)
    saga_id = start(engine, "books")
    with answer_lost("transaction.commit", applied=applied) as lost:
        assert engine.finish(saga_id) == "completed"
    assert lost == ["transaction.commit"]
    assert lines(engine) == 1
    assert "LateOutcomeRecorded" not in engine.kinds(saga_id)


def test_a_transactional_step_is_recorded_although_the_saga_moved_meanwhile(
    engine: Engine, script: Scripted
) -> None:
    def cancelling(context: StepContext[Any]) -> None:
        engine.client.cancel(context.saga_id, reason="no")
        writes(context)

    script.on("book", cancelling)
    saga_id = start(engine, "books")
    assert engine.finish(saga_id) == "compensated"
    assert lines(engine) == 1
    assert script.calls[-1] == ("book", "compensate", 1)
