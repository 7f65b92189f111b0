"""What each role can do to stop others: nothing. Tried per role, per kind, per column, per lock."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy

from orchestrator.definition import Lock
from orchestrator.entries import ENTRY_TYPES
from orchestrator.state import State
from orchestrator.storage.alerts import Alerts
from orchestrator.storage.attention import Attention
from orchestrator.storage.database import Database
from orchestrator.storage.reads import Reads
from orchestrator.storage.tables import metadata
from recovery.operator.attention import needing_attention
from recovery.operator.operator import Operator
from recovery.sweeper import Sweeper
from tests.histories import doing, saga
from tests.integration.engine import Engine

CLIENT, WORKER, READER, JANITOR = (
    "amends_client",
    "amends_worker",
    "amends_reader",
    "amends_janitor",
)
SHOP = saga(doing("pay"), doing("ship", pivot=True), attributes=["amount"])
LOCKING = saga(doing("pay"), name="locking", lock=Lock(on=lambda _: "till"))
HOT = ("saga", "saga_log", "attempt", "signal", "semantic_lock")
VALUES: dict[str, tuple[str, ...]] = {
    "CHAR": ("gen_random_uuid()", "NULL"),
    "TEXT": ("''", "'nonsense'", "repeat('x', 100000)", "'stuck'", "'completed'", "NULL"),
    "INTEGER": ("0", "1", "99", "2147483647", "-5", "NULL"),
    "SMALLINT": ("-1", "0", "32767", "NULL"),
    "BIGINT": ("0", "9223372036854775807"),
    "DATETIME": ("'infinity'", "'-infinity'", "'20000-01-01'", "NULL", "now()"),
    "JSONB": ("'null'", "'5'", "'[]'", "'{\"a\": {}}'", "NULL"),
    "BOOLEAN": ("true", "false"),
    "INTERVAL": ("'0 s'", "'10000 years'", "'-1 s'"),
}


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP, LOCKING, lease=timedelta(seconds=0.3))
    yield made
    made.close()


@contextmanager
def acting_as(engine: Engine, role: str) -> Iterator[psycopg.Connection[Any]]:
    url = engine.pool.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"SET ROLE {role}")
        yield connection


def may(connection: psycopg.Connection[Any], statement: Any, **values: Any) -> bool:
    """Whether the statement was carried out, be it on nothing; False: for want of rights."""
    try:
        connection.execute(statement, values)
    except psycopg.errors.InsufficientPrivilege:
        return False
    except psycopg.Error:  # a CHECK, a type, a key: refused by more than rights
        return True
    return True


def start(engine: Engine, key: str, definition: str = "shop") -> UUID:
    return engine.client.start(definition, {"amount": 1}, key=key).id


def updates(table: str, victim: str = "%(id)s") -> Iterator[str]:
    """Every column of a table set to what it should never hold."""
    named = "id" if table == "saga" else "saga_id"
    for column in metadata.tables[f"amends.{table}"].columns:
        for value in VALUES[str(column.type).split("(")[0].upper()]:
            yield (
                f'UPDATE amends.{table} SET "{column.name}" = {value} '  # noqa: S608 - a test's own
                f"WHERE {named} = {victim}"
            )


def test_a_client_starts_no_saga_that_another_takes_for_its_child(engine: Engine) -> None:
    victim = start(engine, "victim")
    sagas = [
        {
            "id": str(UUID(int=7)),
            "definition": "shop",
            "version": 1,
            "hash": SHOP.hash,
            "key": "forged",
            "fingerprint": "",
            "due_in": 0,
            "attributes": {},
            "parent_id": str(victim),
            "parent_step": "pay",
            "started": {"payload": {"amount": 1}},
        }
    ]
    with acting_as(engine, CLIENT) as connection:
        connection.execute("SELECT amends.start_sagas(%s::json, '[]'::json)", (json.dumps(sagas),))
    assert engine.client.get(UUID(int=7)).key == "forged"
    assert engine.client.child_of(victim, "pay") is None


# -- who may only start, signal and cancel, and who may only look --------------------------------


@pytest.mark.parametrize("role", [CLIENT, READER, JANITOR])
@pytest.mark.parametrize("seq", [1, 2, 3, 1000])
def test_no_kind_of_entry_can_be_written_at_any_seq(engine: Engine, role: str, seq: int) -> None:
    victim = start(engine, "victim")
    with acting_as(engine, role) as connection:
        for kind in [*ENTRY_TYPES, "Nonsense"]:
            assert not may(
                connection,
                "INSERT INTO amends.saga_log (saga_id, seq, kind, data) "
                "VALUES (%(id)s, %(seq)s, %(kind)s, '{}')",
                id=victim,
                seq=seq,
                kind=kind,
            )


@pytest.mark.parametrize("role", [CLIENT, READER, JANITOR])
def test_no_row_that_moves_a_saga_can_be_changed_locked_or_deleted(
    engine: Engine, role: str
) -> None:
    victim = start(engine, "victim")
    engine.client.signal(victim, "told", dedup_id="1")
    with acting_as(engine, role) as connection:
        for table in HOT:
            for column in metadata.tables[f"amends.{table}"].columns:
                assigned = f'UPDATE amends.{table} SET "{column.name}" = NULL WHERE false'  # noqa: S608
                assert not may(connection, assigned), assigned
            for statement in (
                f"DELETE FROM amends.{table}",  # noqa: S608
                f"TRUNCATE amends.{table}",
                f"DO $$ BEGIN LOCK TABLE amends.{table} IN ROW EXCLUSIVE MODE; END $$",
                f"SELECT * FROM amends.{table} FOR UPDATE",  # noqa: S608
                f"SELECT * FROM amends.{table} FOR SHARE",  # noqa: S608
                f"INSERT INTO amends.{table} SELECT * FROM amends.{table}",  # noqa: S608
            ):
                assert not may(connection, statement), statement
    assert engine.finish(victim) == "completed"


@pytest.mark.parametrize("role", [READER, JANITOR])
def test_who_only_looks_calls_no_function_that_writes(engine: Engine, role: str) -> None:
    victim = start(engine, "victim")
    with acting_as(engine, role) as connection:
        for call in (
            "amends.start_sagas('[]', '[]')",
            "amends.start_locking_sagas('[]', '[]')",
            "amends.request_cancel(%(id)s, 'r', 'a')",
            "amends.deliver_signals(%(id)s, NULL, NULL)",
        ):
            assert not may(connection, f"SELECT {call}", id=victim)


HOSTILE_START = {
    "version": 1,
    "hash": SHOP.hash,
    "definition": "shop",
    "fingerprint": "f",
    "state": "completed",
    "due_in": 1.0,
    "attributes": 5,
    "started": {"payload": None, "skipped": 7},
}


def test_a_start_writes_a_running_saga_whatever_is_asked_for(engine: Engine) -> None:
    other = start(engine, "other")
    mine = UUID(int=7)
    sagas = [HOSTILE_START | {"id": str(mine), "key": "hostile"}]
    attempt = {
        "step": "pay",
        "direction": "forward",
        "number": 1,
        "queue": "q",
        "delay": 0,
        "timeout": 1e6,
        "alone": False,
        "rung": True,
    }
    schedule = [
        attempt | {"saga_id": str(mine), "token": str(mine), "owner": "mallory", "lease": 1e6},
        attempt | {"saga_id": str(other), "number": 2},
        attempt | {"saga_id": str(other), "step": "ship"},
    ]
    with acting_as(engine, CLIENT) as connection:
        connection.execute(
            "SELECT amends.start_sagas(%s::json, %s::json)",
            [json.dumps(sagas), json.dumps(schedule)],
        )
    rows = engine.sql("SELECT state, seq, attributes FROM amends.saga WHERE key = 'hostile'")
    assert rows == [("running", 1, {})]
    assert engine.sql("SELECT token, owner FROM amends.attempt WHERE saga_id = :id", id=mine) == [
        (None, None)
    ]
    assert engine.attempts(other) == [("pay", "forward", 1)]
    sweep(engine)
    assert engine.client.get(mine).state is State.STUCK
    assert engine.finish(other) == "completed"


@pytest.mark.parametrize("deadline", [1e12, 1e15, 1e300, -1e15])
def test_a_start_with_an_absurd_moment_hides_no_other_saga(engine: Engine, deadline: float) -> None:
    start(engine, "other")
    sagas = [HOSTILE_START | {"id": str(UUID(int=7)), "key": "hostile", "deadline": deadline}]
    with acting_as(engine, CLIENT) as connection, pytest.raises(psycopg.Error):
        connection.execute("SELECT amends.start_sagas(%s::json, '[]'::json)", [json.dumps(sagas)])
    assert [each.key for each in Reads(Database(engine.pool)).find()] == ["other"]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "payload",
    ["5", "null", '"text"', "[]", nested(900), nested(3000), '{"payload": {"a": 1e300}}'],
    ids=lambda each: each[:10],
)
def test_no_signal_keeps_others_from_being_heard(engine: Engine, payload: str) -> None:
    victim, other = start(engine, "victim"), start(engine, "other")
    with acting_as(engine, CLIENT) as connection:
        for key in ("victim", "other"):
            connection.execute(
                "INSERT INTO amends.signal (definition, key, name, dedup_id, payload) "
                "VALUES ('shop', %s, 'told', '1', %s::jsonb)",
                [key, payload if key == "victim" else "{}"],
            )
    for _ in range(2):
        sweep(engine)
    assert "SignalReceived" in engine.kinds(other)
    assert engine.finish(other) == "completed"
    if engine.client.get(victim).state is State.STUCK:
        assert engine.kinds(victim)[-1] == "SagaParked"


def test_a_log_that_is_nested_too_deeply_is_read_all_the_same(engine: Engine) -> None:
    victim = start(engine, "victim")
    engine.sql(
        "INSERT INTO amends.signal (definition, key, name, dedup_id, payload) "
        "VALUES ('shop', 'victim', 'told', '1', CAST(:payload AS jsonb))",
        payload=nested(3000),
    )
    for _ in range(2):
        sweep(engine)
    assert engine.client.get(victim).state is State.STUCK
    found = Operator(engine.coordinator, engine.client).diagnosis(victim)
    assert [each.kind for each in found.damaged] == ["SignalReceived"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", "'x' || repeat('y', 300)"),
        ("dedup_id", "'x' || repeat('y', 300)"),
        ("key", "'x' || repeat('y', 300)"),
        ("payload", "to_jsonb(repeat('y', 300000))"),
        ("arrival", "1"),
        ("delivered_at", "now()"),
        ("received_at", "'infinity'"),
    ],
)
def test_a_signal_holds_only_what_a_signal_holds(engine: Engine, column: str, value: str) -> None:
    values = {
        "definition": "'shop'",
        "key": "'victim'",
        "name": "'n'",
        "dedup_id": "'1'",
        "payload": "'{}'",
    } | {column: value}
    refused = (psycopg.errors.InsufficientPrivilege, psycopg.errors.CheckViolation)
    with acting_as(engine, CLIENT) as connection, pytest.raises(refused):
        connection.execute(
            f"INSERT INTO amends.signal ({', '.join(values)}) "  # noqa: S608 - a test's own
            f"VALUES ({', '.join(values.values())})"
        )


# -- who moves sagas: one row of it stops one saga only -------------------------------------------


def sweep(engine: Engine) -> None:
    engine.sql("UPDATE amends.saga SET due_at = clock_timestamp() WHERE due_at < '3000-01-01'")
    Sweeper(engine.coordinator, Database(engine.pool)).run_once()


def hostile_statements() -> list[str]:
    written = [
        "INSERT INTO amends.saga_log (saga_id, seq, kind, data) "  # noqa: S608 - a test's own
        f"VALUES (%(id)s, 2, '{kind}', '{{}}')"
        for kind in ENTRY_TYPES
    ]
    doubled = [
        "INSERT INTO amends.attempt (saga_id, step, direction, number, queue, due_at, "  # noqa: S608
        f"ring_at, timeout_for) VALUES (%(id)s, '{step}', '{direction}', {number}, '{queue}', "
        f"{due}, {due}, '1 s')"
        for step, direction, number, queue, due in (
            ("ship", "forward", 1, "nowhere", "now()"),
            ("nonsense", "forward", 1, "", "now()"),
            ("pay", "sideways", 2, "q", "now()"),
            ("pay", "forward", 999_999_999, "q", "'8999-01-01'"),
        )
    ]
    return [
        *written,
        *doubled,
        *updates("saga"),
        *updates("attempt"),
        "DELETE FROM amends.attempt WHERE saga_id = %(id)s",
        "INSERT INTO amends.semantic_lock (saga_id, name, granted) VALUES (%(id)s, 'x', true)",
    ]


def test_whatever_a_worker_writes_into_one_saga_the_others_go_on(engine: Engine) -> None:
    hostile = hostile_statements()
    rows = [(f"victim-{number}", {"amount": 1}) for number in range(len(hostile))]
    victims = [each.id for each in engine.client.start_many("shop", rows)]  # type: ignore[union-attr]
    others = [start(engine, f"other-{number}") for number in range(5)]
    with acting_as(engine, WORKER) as connection:
        done = 0
        for victim, statement in zip(victims, hostile, strict=True):
            try:
                done += connection.execute(statement, {"id": victim}).rowcount
            except psycopg.Error:
                continue
    assert done > 80, "most of it is in a worker's power"
    engine.bell.messages.clear()
    for _ in range(3):
        sweep(engine)
    for each in others:
        assert engine.finish(each) == "completed"
    assert lists(engine) >= len(others)


def lists(engine: Engine) -> int:
    """Read every list that a person or a service looks at; return how many sagas there are."""
    database = Database(engine.pool)
    reads = Reads(database)
    found = reads.find(limit=1000)
    reads.counts()
    Alerts(database).find(closed_too=True, limit=100)
    operator = Operator(engine.coordinator, engine.client)
    needing_attention(
        Attention(database),
        reads,
        operator,
        limit=1000,
        retrying_seconds=0,
        overdue_seconds=0,
        unclaimed_seconds=0,
    )
    return len(found)


@pytest.mark.parametrize("ends", [False, True])
def test_a_lock_of_no_saga_in_flight_holds_up_nobody(engine: Engine, ends: bool) -> None:
    holder = UUID(int=5)
    if ends:
        holder = start(engine, "ended")
        engine.finish(holder)
    with acting_as(engine, WORKER) as connection:
        connection.execute(
            "INSERT INTO amends.semantic_lock (saga_id, name, granted) VALUES (%s, 'till', true)",
            [holder],
        )
    waiting = start(engine, "waits", "locking")
    for _ in range(3):
        sweep(engine)
        engine.work()
    assert engine.client.get(waiting).state is State.COMPLETED


def test_who_starts_signals_and_cancels_needs_no_more(engine: Engine, database: str) -> None:
    mine = Engine(database, SHOP, LOCKING)
    sqlalchemy.event.listen(mine.pool, "connect", _as_client)
    try:
        first = mine.client.start("shop", {"amount": 1}, key="order-1")
        assert not mine.client.start("shop", {"amount": 1}, key="order-1").created
        with mine.pool.begin() as connection:
            inside = mine.client.start("shop", {"amount": 1}, key="order-2", session=connection)
        assert mine.client.start("locking", {"amount": 1}, key="order-3").created
        assert mine.client.signal(first.id, "told", dedup_id="1")
        mine.client.cancel(first.id, reason="a test")
        assert engine.finish(first.id) == "compensated"
        assert engine.finish(inside.id) == "completed"
        assert "SignalReceived" in engine.kinds(first.id)
    finally:
        mine.close()


def _as_client(connection: Any, _record: Any) -> None:
    connection.autocommit = True
    connection.execute(f"SET ROLE {CLIENT}")
    connection.autocommit = False
