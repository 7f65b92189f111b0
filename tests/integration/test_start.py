"""Starting: durable, idempotent, and a guest in the caller's transaction."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from orchestrator.client import NotStarted, SagaClient, Started
from orchestrator.doorbell import DoorbellError, SilentDoorbell
from orchestrator.errors import (
    ConcurrentStartError,
    IdempotencyConflictError,
    InvalidKeyError,
    LogUnavailableError,
    PayloadError,
    UnknownDefinitionError,
)
from orchestrator.payloads import fingerprint
from orchestrator.storage.database import create_engine
from tests.histories import doing, saga
from tests.integration.engine import Engine
from tests.worker_processes import until
from workers import connect
from workers.settings import Settings

ROOT = Path(__file__).parents[2]
SHOP = saga(doing("pay"), doing("ship"), attributes=["amount"])
ORDER = {"amount": 1}


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


def sagas(engine: Engine) -> int:
    [(count,)] = engine.sql("SELECT count(*) FROM amends.saga")
    return int(count)


# -- alone -----------------------------------------------------------------------------------------


def test_a_start_is_committed_when_it_returns(engine: Engine) -> None:
    started = engine.client.start(SHOP, ORDER, key="order-1")
    assert started.created
    assert engine.kinds(started.id) == ["SagaStarted"]
    assert engine.attempts(started.id) == [("pay", "forward", 1)]
    assert engine.client.get(started.id).attributes == {"amount": 1}


def test_the_same_start_again_returns_the_same_saga(engine: Engine) -> None:
    first = engine.client.start(SHOP, ORDER, key="order-1")
    assert engine.client.start(SHOP, ORDER, key="order-1") == Started(
        id=first.id, key="order-1", created=False
    )
    assert len(engine.bell.messages) == 1


def test_the_same_key_with_another_payload_is_refused_and_names_its_holder(engine: Engine) -> None:
    first = engine.client.start(SHOP, ORDER, key="order-1")
    with pytest.raises(IdempotencyConflictError) as refused:
        engine.client.start(SHOP, {"amount": 2}, key="order-1")
    assert refused.value.saga_id == first.id
    assert sagas(engine) == 1


def test_the_same_key_of_another_definition_is_another_saga(engine: Engine) -> None:
    engine.client.start(SHOP, ORDER, key="order-1")
    assert engine.client.start(saga(doing("pay"), name="store"), ORDER, key="order-1").created


def test_a_new_version_does_not_start_an_old_key_again(engine: Engine) -> None:
    engine.client.start(SHOP, ORDER, key="order-1")
    newer = saga(doing("pay"), doing("pack"), version=2)
    assert not engine.client.start(newer, ORDER, key="order-1").created


@pytest.mark.parametrize("payload", [ORDER, {"amount": 2}])
def test_a_pruned_saga_still_holds_its_key(engine: Engine, payload: dict[str, int]) -> None:
    holder = uuid4()
    engine.sql(
        "INSERT INTO amends.tombstone (definition, version, definition_hash, key, saga_id, "
        'fingerprint, state, "references", ended_at) '
        "VALUES ('shop', 1, 'hash', 'order-1', :id, :print, 'completed', '{}', now())",
        id=holder,
        print=fingerprint(ORDER),
    )
    if payload == ORDER:
        started = engine.client.start(SHOP, payload, key="order-1")
        assert (started.id, started.created) == (holder, False)
    else:
        with pytest.raises(IdempotencyConflictError):
            engine.client.start(SHOP, payload, key="order-1")
    assert sagas(engine) == 0


@pytest.mark.parametrize(
    ("definition", "payload", "key", "error"),
    [
        (SHOP, {"amount": "many"}, "order-1", PayloadError),
        (SHOP, {"amount": 1, "note": "\x00"}, "order-1", PayloadError),
        (SHOP, ORDER, "", InvalidKeyError),
        ("store", ORDER, "order-1", UnknownDefinitionError),
    ],
)
def test_a_refused_start_writes_nothing(
    engine: Engine, definition: Any, payload: Any, key: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        engine.client.start(definition, payload, key=key)
    assert sagas(engine) == 0


def test_a_trace_larger_than_a_few_headers_is_refused(engine: Engine) -> None:
    with pytest.raises(PayloadError, match="2,048"):
        engine.client.start(SHOP, ORDER, key="order-1", trace={"traceparent": "x" * 2048})
    assert engine.sql("SELECT count(*) FROM amends.saga") == [(0,)]


def test_a_trace_that_cannot_be_stored_is_refused_before_anything_is_written(
    engine: Engine,
) -> None:
    with pytest.raises(PayloadError):
        engine.client.start(SHOP, ORDER, key="order-1", trace={"traceparent": "\x00"})
    assert sagas(engine) == 0


class DeadBell:
    def ring(self, _rings: Any) -> None:
        raise DoorbellError("no broker")

    def depth(self, _queue: str) -> int | None:
        return None


def test_a_start_with_the_broker_down_is_committed_all_the_same(engine: Engine) -> None:
    client = SagaClient(engine.pool, DeadBell())
    started = client.start(SHOP, ORDER, key="order-1")
    assert engine.finish(started.id) == "completed"


def test_a_start_with_a_silent_doorbell_counts_as_rung_by_nobody(engine: Engine) -> None:
    SagaClient(engine.pool, SilentDoorbell()).start(SHOP, ORDER, key="order-1")

    assert engine.sql("SELECT rung_count FROM amends.attempt") == [(0,)]


def test_a_closed_client_leaves_no_connection_and_opens_new_ones(
    engine: Engine, database: str
) -> None:
    client = connect(Settings.load(database_url=database, broker_url=None))
    theirs = """SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'amends client' AND datname = current_database()"""
    assert client.find() == []
    assert engine.sql(theirs) == [(1,)]

    client.close()

    until(lambda: engine.sql(theirs) == [(0,)], what="the end of its connection")
    assert client.find() == []
    client.close()


def test_a_start_without_postgres_says_that_nobody_knows() -> None:
    pool = create_engine("postgresql://amends@127.0.0.1:1/nowhere")
    with pytest.raises(LogUnavailableError):
        SagaClient(pool).start(SHOP, ORDER, key="order-1")
    pool.dispose()


STARTER = """
import json, sys, threading
from orchestrator.client import SagaClient
from orchestrator.storage.database import create_engine
from tests.integration.test_start import ORDER, SHOP

pool = create_engine(sys.argv[1], pool_size=25)
client, answers = SagaClient(pool), []
gate = threading.Barrier(25)

def start():
    gate.wait()
    started = client.start(SHOP, ORDER, key="order-1")
    answers.append([str(started.id), started.created])

threads = [threading.Thread(target=start) for _ in range(25)]
for each in threads: each.start()
for each in threads: each.join()
pool.dispose()
print(json.dumps(answers))
"""


def test_fifty_concurrent_starts_from_two_processes_are_one_saga(
    engine: Engine, database: str
) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STARTER, database], cwd=ROOT, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    answers = [
        answer for each in processes for answer in json.loads(each.communicate(timeout=120)[0])
    ]
    assert len(answers) == 50
    assert len({saga_id for saga_id, _ in answers}) == 1
    assert sum(created for _, created in answers) == 1
    assert sagas(engine) == 1
    assert engine.attempts(UUID(answers[0][0])) == [("pay", "forward", 1)]


# -- many at once ----------------------------------------------------------------------------------


def test_many_are_started_together_and_each_row_has_its_answer(engine: Engine) -> None:
    engine.client.start(SHOP, {"amount": 9}, key="taken")
    rows: list[tuple[str, dict[str, Any]]] = [
        ("one", ORDER),
        ("bad", {"amount": "many"}),
        ("taken", ORDER),
        ("one", ORDER),
        ("", ORDER),
        ("two", ORDER),
    ]
    answers = list(engine.client.start_many(SHOP, rows))
    assert [isinstance(each, Started) and each.created for each in answers] == [
        True,
        False,
        False,
        False,
        False,
        True,
    ]
    errors = {each.key: type(each.error) for each in answers if isinstance(each, NotStarted)}
    assert errors == {
        "bad": PayloadError,
        "taken": IdempotencyConflictError,
        "": InvalidKeyError,
    }
    assert sagas(engine) == 3


def test_starting_many_again_starts_none(engine: Engine) -> None:
    rows = [(f"order-{n}", ORDER) for n in range(700)]
    first = list(engine.client.start_many(SHOP, rows))
    assert all(isinstance(each, Started) and each.created for each in first)
    again = list(engine.client.start_many(SHOP, rows))
    assert [each.id for each in again if isinstance(each, Started) and not each.created] == [
        each.id for each in first if isinstance(each, Started)
    ]
    assert sagas(engine) == 700
    assert len(engine.bell.messages) == 700


# -- in the caller's transaction -------------------------------------------------------------------


def test_a_start_in_a_session_exists_when_the_caller_commits(engine: Engine) -> None:
    with Session(engine.pool) as session:
        started = engine.client.start(SHOP, ORDER, key="order-1", session=session)
        assert sagas(engine) == 0
        assert not engine.bell.messages
        session.commit()
    assert engine.client.get(started.id).state == "running"
    assert len(engine.bell.messages) == 1


def test_a_rollback_leaves_nothing_and_rings_nobody(engine: Engine) -> None:
    with Session(engine.pool) as session:
        engine.client.start(SHOP, ORDER, key="order-1", session=session)
        session.rollback()
        session.execute(sqlalchemy.text("SELECT 1"))
        session.commit()
    assert sagas(engine) == 0
    assert engine.sql("SELECT count(*) FROM amends.attempt") == [(0,)]
    assert not engine.bell.messages


def test_a_session_closed_without_a_commit_leaves_nothing(engine: Engine) -> None:
    with Session(engine.pool) as session:
        engine.client.start(SHOP, ORDER, key="order-1", session=session)
    assert sagas(engine) == 0
    assert not engine.bell.messages


def test_the_bell_rings_only_after_the_outermost_commit(engine: Engine) -> None:
    with Session(engine.pool) as session:
        with session.begin_nested():
            with session.begin_nested():
                engine.client.start(SHOP, ORDER, key="order-1", session=session)
            assert not engine.bell.messages
        assert not engine.bell.messages
        session.commit()
        assert len(engine.bell.messages) == 1


def test_a_savepoint_rolled_back_takes_its_start_with_it(engine: Engine) -> None:
    with Session(engine.pool) as session:
        savepoint = session.begin_nested()
        engine.client.start(SHOP, ORDER, key="order-1", session=session)
        savepoint.rollback()
        session.commit()
    assert sagas(engine) == 0


def test_a_savepoint_rolled_back_does_not_silence_the_start_before_it(engine: Engine) -> None:
    with Session(engine.pool) as session:
        engine.client.start(SHOP, ORDER, key="order-1", session=session)
        session.begin_nested().rollback()
        session.commit()
    assert sagas(engine) == 1
    assert len(engine.bell.messages) == 1


def test_one_session_serves_one_transaction_after_another(engine: Engine) -> None:
    with Session(engine.pool) as session:
        for number in range(3):
            engine.client.start(SHOP, ORDER, key=f"order-{number}", session=session)
            session.commit()
    assert len(engine.bell.messages) == 3


def test_a_start_on_a_connection_belongs_to_its_transaction(engine: Engine) -> None:
    with engine.pool.connect() as connection:
        engine.client.start(SHOP, ORDER, key="order-1", session=connection)
        connection.rollback()
        started = engine.client.start(SHOP, ORDER, key="order-1", session=connection)
        connection.commit()
    assert started.created
    assert sagas(engine) == 1
    [(due,)] = engine.sql("SELECT ring_at <= clock_timestamp() FROM amends.attempt")
    assert due, "nobody rings for a connection, so the sweep must find it at once"


def test_a_start_in_an_async_session_belongs_to_its_transaction(
    engine: Engine, database: str
) -> None:
    async def run() -> Started:
        pool = create_async_engine(database)
        async with AsyncSession(pool) as session:
            await session.run_sync(
                lambda inner: engine.client.start(SHOP, ORDER, key="gone", session=inner)
            )
            await session.rollback()
            started = await session.run_sync(
                lambda inner: engine.client.start(SHOP, ORDER, key="order-1", session=inner)
            )
            assert not engine.bell.messages
            await session.commit()
        await pool.dispose()
        return started

    started = asyncio.run(run())
    assert engine.client.get(started.id).key == "order-1"
    assert sagas(engine) == 1
    assert len(engine.bell.messages) == 1


def test_a_losing_start_does_not_break_the_callers_transaction(engine: Engine) -> None:
    engine.client.start(SHOP, ORDER, key="order-1")
    with Session(engine.pool) as session:
        session.execute(sqlalchemy.text("CREATE TABLE public.mine (x int)"))
        assert not engine.client.start(SHOP, ORDER, key="order-1", session=session).created
        with pytest.raises(IdempotencyConflictError):
            engine.client.start(SHOP, {"amount": 2}, key="order-1", session=session)
        session.execute(sqlalchemy.text("INSERT INTO public.mine VALUES (1)"))
        session.commit()
    assert engine.sql("SELECT x FROM public.mine") == [(1,)]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_stricter_caller_keeps_its_transaction_and_gets_a_typed_error(
    engine: Engine, level: str
) -> None:
    with engine.pool.connect().execution_options(isolation_level=level) as connection:
        connection.exec_driver_sql("CREATE TABLE public.mine (x int)")  # takes the snapshot
        engine.client.start(SHOP, ORDER, key="order-1")
        with pytest.raises(ConcurrentStartError):
            engine.client.start(SHOP, ORDER, key="order-1", session=connection)
        connection.exec_driver_sql("INSERT INTO public.mine VALUES (1)")
        connection.commit()
    assert engine.sql("SELECT x FROM public.mine") == [(1,)]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_stricter_caller_who_sees_the_holder_gets_it(engine: Engine, level: str) -> None:
    first = engine.client.start(SHOP, ORDER, key="order-1")
    with engine.pool.connect().execution_options(isolation_level=level) as connection:
        again = engine.client.start(SHOP, ORDER, key="order-1", session=connection)
        fresh = engine.client.start(SHOP, ORDER, key="order-2", session=connection)
        connection.commit()
    assert (again.id, again.created) == (first.id, False)
    assert fresh.created
    assert sagas(engine) == 2
