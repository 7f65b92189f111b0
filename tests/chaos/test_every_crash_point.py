"""A checkout that dies, lies or stalls at each of its durable actions ends as if it had not."""

from __future__ import annotations

import gc
import re
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.transport.redis import Channel

from orchestrator import checkpoints, coordinator, keys
from orchestrator.definitions import Definitions
from orchestrator.entries import log_format
from orchestrator.state import FoldedSaga, State
from orchestrator.storage import statements
from orchestrator.storage.database import create_engine, run_inside
from orchestrator.storage.rows import Advance, AttemptId, Claimed
from orchestrator.storage.saga_log import SagaLog
from recovery.invariants.collect import check, collect
from recovery.invariants.evidence import Violation
from steps.checkout import checkout
from steps.gateways.sandbox.judge import SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from steps.storage.stock import restock
from tests.chaos.enumerator import (
    LEASE_SECONDS,
    MODES,
    Fault,
    Outcome,
    World,
    counted_outside,
    run_checkout,
)
from workers.broker import NEW, broker_configuration
from workers.settings import Settings

pytestmark = [
    pytest.mark.timeout(900),
    # A process that died did not close its sockets; neither do those that play it.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ENDS = {
    "tok_ok": State.COMPLETED,
    "tok_declined": State.COMPENSATED,
    "tok_cvv_mismatch": State.COMPENSATED,  # blocked once the money is held
}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[SandboxProcess]:
    process = SandboxProcess.start(tmp_path / "ledger.sqlite")
    yield process
    process.stop()


@pytest.fixture
def world(database: str, broker_url: str, gateway: SandboxProcess) -> Iterator[World]:
    settings = Settings(
        database_url=database,
        broker_url=broker_url,
        gateway_url=gateway.base_url,
    ).model_copy(update={"lease_seconds": LEASE_SECONDS})
    app = Celery("enumerator", set_as_current=False)
    app.conf.update(broker_configuration(settings))
    # A stalled process holds its saga's row until Postgres ends the session; not for 15 s here.
    engine = create_engine(
        database, pool_size=8, session={"idle_in_transaction_session_timeout": "500ms"}
    )
    restock(engine, "cd", 1_000_000)
    with SandboxJudge(gateway.base_url) as judge, redis.Redis.from_url(broker_url) as broker:
        yield World(
            engine=engine,
            app=app,
            broker=broker,
            queue_keys=("amends:amends", f"amends:amends{Channel.sep}{NEW}"),
            judge=judge,
            settings=settings,
            definition=checkout,
        )
    engine.dispose()
    app.close()
    gc.collect()  # here, where what the dead left open is expected


def payload_of(key: str, token: str) -> dict[str, Any]:
    return {
        "order_id": key,
        "customer_id": "customer-1",
        "units": 2,
        "amount_minor": 4990,
        "currency": "EUR",
        "payment_method": token,
    }


def run(world: World, token: str, fault: Fault) -> Outcome:
    """Run a fresh checkout through `fault`; its key names the fault, so that a failure says it."""
    place = "clean" if fault.at is None else f"{fault.mode}-{fault.at}"
    key = f"{token}-{place}-{uuid.uuid4().hex[:8]}"
    return run_checkout(world, key, payload_of(key, token), fault)


def violations(world: World) -> list[Violation]:
    evidence = collect(world.engine, world.judge)
    return check(evidence, Definitions([checkout]), at_rest=True)


@pytest.mark.parametrize("token", ENDS)
@pytest.mark.parametrize("in_place", [True, False], ids=["inline", "brokered"])
def test_every_durable_action_goes_through_the_seam(
    world: World, token: str, in_place: bool
) -> None:
    world = replace(world, in_place=in_place)
    run(world, token, Fault())  # connections, prepared statements and lazy resources exist now

    def has_named_all() -> bool:
        fault = Fault()
        with counted_outside(world) as outside:
            run(world, token, fault)
        seen = Counter(name.partition(".")[0] for name in fault.names)
        print(f"\nK = {len(fault.names)}: {', '.join(fault.names)}; {outside}")
        assert seen["gateway"] + seen["carrier"] == outside.requests
        assert seen["ring"] == outside.publishes
        return len(fault.names) - outside.requests - outside.publishes == outside.commits

    # Postgres' own vacuum may write in the midst of a run, and is counted too.
    assert any(has_named_all() for _ in range(5))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("token", ENDS)
def test_a_fault_at_any_durable_action_changes_nothing(world: World, token: str, mode: str) -> None:
    points = len(run(world, token, Fault()).fault.names)

    for at in range(points):
        outcome = run(world, token, Fault(at=at, mode=mode))
        assert outcome.saga.state is ENDS[token], f"{mode} at {outcome.fault.names[at]}"

    print(f"\n{token} {mode}: {points} points, {len(found := violations(world))} violations")
    assert found == []


# -- without a protection, the same runs fail ------------------------------------------------------


def names_of(found: list[Violation]) -> set[str]:
    return {each.invariant for each in found}


def test_without_the_token_a_stale_result_is_accepted_and_noticed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = run(world, "tok_ok", Fault()).fault.names
    unfenced = re.sub(
        r"WITH closed AS .*?\), moved AS \(",
        "WITH moved AS (",
        statements.APPEND_OUTCOME,
        flags=re.DOTALL,
    ).replace("FROM closed WHERE s.id = closed.saga_id", "WHERE s.id = %(saga_id)s")
    unfenced = unfenced.replace("due_at = clock_timestamp(),", "")
    assert unfenced != statements.APPEND_OUTCOME
    monkeypatch.setattr(statements, "APPEND_OUTCOME", unfenced)

    run(world, "tok_ok", Fault(at=clean.index("gateway.authorize") + 1, mode="stalled"))

    assert "history folds" in names_of(violations(world))


def test_without_the_intent_an_effect_comes_before_its_entry_and_is_noticed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = replace(world, in_place=False)
    clean = run(world, "tok_ok", Fault()).fault.names
    claims: dict[uuid.UUID, dict[str, Any]] = {}
    claim, advance = SagaLog.claim, SagaLog.advance

    def claim_and_forget(log: SagaLog, attempt: AttemptId, **options: Any) -> Claimed | None:
        with world.engine.connect() as connection:
            known = {"log_format": log_format(), "form": checkpoints.form()}
            values = {**asdict(attempt), **options, **known}
            values["lease"] = values.pop("lease_seconds")
            rows = run_inside(connection, statements.CLAIM, values)
            connection.rollback()
        claims[options["token"]] = {"attempt": attempt, **options}
        return log._claimed(attempt, tuple(rows[0])) if rows else None

    def claim_late(log: SagaLog, change: Advance, connection: Any = None) -> bool:
        if change.closing is not None and change.closing.token in claims:
            claim(log, **claims.pop(change.closing.token))
        return advance(log, change, connection)

    monkeypatch.setattr(SagaLog, "claim", claim_and_forget)
    monkeypatch.setattr(SagaLog, "advance", claim_late)
    names = [each for each in clean if each != "claim.commit"]

    run(world, "tok_ok", Fault(at=names.index("gateway.authorize"), mode="after"))

    assert "intent before effect" in names_of(violations(world))


def test_with_the_attempt_in_the_key_the_payer_is_charged_twice_and_it_is_noticed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = run(world, "tok_ok", Fault()).fault.names

    def key_with_attempt(state: FoldedSaga, definition: str, key: str, step: str, way: str) -> str:
        attempt = state.step(step).track(way).attempts
        return f"{keys.key_of(state, definition, key, step, way)}-{attempt}"

    monkeypatch.setattr(coordinator, "key_of", key_with_attempt)

    run(world, "tok_ok", Fault(at=clean.index("gateway.authorize"), mode="after"))

    assert "one effect per step" in names_of(violations(world))
