"""The idempotency store in Postgres: lost answers, outages, and each protection taken away once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy

from orchestrator import running_once
from orchestrator.errors import LogUnavailableError, OutcomeUnknown, Retriable
from orchestrator.idempotency import IdempotencyInFlightError, IdempotencyState, idempotent
from orchestrator.idempotency_record import Claim, Claimed, InProgress, Released, Succeeded
from orchestrator.seam import intercepted
from orchestrator.storage import idempotency_statements as statements
from orchestrator.storage.database import create_engine
from orchestrator.storage.idempotency import PostgresIdempotencyStore
from tests.cut_connections import cut_connections
from tests.idempotency_stores import SCOPE, SHORT, again, answer, claim_of, record, store_in, taken
from tests.integration.engine import answer_lost, events
from tests.worker_processes import until

T = TypeVar("T")


@pytest.fixture
def engine(database: str) -> Iterator[sqlalchemy.Engine]:
    made: sqlalchemy.Engine = create_engine(database, pool_size=20)
    yield made
    made.dispose()


@pytest.fixture
def store(engine: sqlalchemy.Engine) -> Iterator[PostgresIdempotencyStore]:
    with store_in(engine) as made:
        yield made


def sql(engine: sqlalchemy.Engine, statement: str) -> list[Any]:
    with engine.begin() as connection:
        result = connection.exec_driver_sql(statement)
        return list(result.fetchall()) if result.returns_rows else []


class Till:
    """Counts what is taken, and may raise afterwards."""

    def __init__(self, store: PostgresIdempotencyStore, **options: Any) -> None:
        self.count = 0
        self.error: Exception | None = None

        @idempotent(store, scope=SCOPE, **options)
        def take(amount: int, idempotency_key: str) -> int:
            self.count += 1
            if self.error:
                raise self.error
            return amount

        self.take: Callable[..., int] = take


# -- lost answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
@pytest.mark.parametrize("action", ["idempotency.claim", "idempotency.finish"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_lost_answer_is_read_back(
    store: PostgresIdempotencyStore, action: str, applied: bool, times: int
) -> None:
    till = Till(store)
    with answer_lost(action, applied=applied, times=times) as lost:
        assert till.take(7, "order-1") == 7
    assert len(lost) == times
    assert till.take(7, "order-1") == 7
    assert till.count == 1


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
def test_a_lost_answer_to_a_release_leaves_the_key_free(
    store: PostgresIdempotencyStore, applied: bool
) -> None:
    till = Till(store)
    till.error = Retriable("later")
    with answer_lost("idempotency.finish", applied=applied), pytest.raises(Retriable):
        till.take(7, "order-1")
    till.error = None
    assert till.take(7, "order-1") == 7


@pytest.mark.parametrize("text", ["WITH seen AS", "WITH ended AS"], ids=["claim", "finish"])
def test_a_connection_that_breaks_after_the_commit_costs_nothing(database: str, text: str) -> None:
    with cut_connections(database) as (url, proxy):
        engine = create_engine(url)
        till = Till(PostgresIdempotencyStore(engine))
        till.take(1, "to connect")
        proxy.lose_answer_to(text)
        assert till.take(7, "order-1") == 7
        assert proxy.cuts == 1
        assert till.take(7, "order-1") == 7
        assert till.count == 2
        engine.dispose()


def test_an_answer_to_a_claim_that_comes_after_its_lease_runs_nothing_under_it(
    store: PostgresIdempotencyStore,
) -> None:
    claims: list[int] = []

    def slow(name: str, action: Callable[[], T]) -> T:
        result = action()
        if name == "idempotency.claim" and not claims:
            until(lambda: record(store, claim_of()).state is IdempotencyState.UNKNOWN)
        claims.extend([till.count] if name == "idempotency.claim" else [])
        return result

    till = Till(store, lease_seconds=SHORT)
    with intercepted(slow):
        assert till.take(1, "order-1") == 1
    assert claims == [0, 0], "the late claim was handed back, and the key claimed anew"


# -- outages ---------------------------------------------------------------------------------------


def test_without_a_database_nothing_runs(
    store: PostgresIdempotencyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_once, "PATIENCE_SECONDS", SHORT)
    till = Till(store)
    with (
        answer_lost("idempotency.claim", applied=False, times=1000),
        pytest.raises(LogUnavailableError),
    ):
        till.take(1, "order-1")
    assert till.count == 0


def test_what_ran_and_could_not_be_written_down_is_unknown_and_never_run_again(
    store: PostgresIdempotencyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_once, "PATIENCE_SECONDS", SHORT)
    till = Till(store, lease_seconds=2 * SHORT)
    with (
        answer_lost("idempotency.finish", applied=False, times=1000),
        pytest.raises(LogUnavailableError, match="could not be written down"),
    ):
        till.take(1, "order-1")
    until(lambda: len(store.unknown()) == 1)
    with pytest.raises(OutcomeUnknown):
        till.take(1, "order-1")
    assert till.count == 1


def test_an_unknown_that_could_not_be_written_down_is_told_all_the_same(
    store: PostgresIdempotencyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_once, "PATIENCE_SECONDS", SHORT)
    till = Till(store, lease_seconds=SHORT)
    till.error = ValueError("a bug")
    with (
        answer_lost("idempotency.finish", applied=False, times=1000),
        pytest.raises(ValueError, match="a bug"),
    ):
        till.take(1, "order-1")


def test_a_lease_that_could_not_be_extended_is_extended_later(
    store: PostgresIdempotencyStore,
) -> None:
    claim = taken(store, claim_of(lease_seconds=3.0))
    lost_once = answer_lost("idempotency.extend", applied=False, times=1)
    with events() as heard, lost_once as lost, store.kept(claim):
        until(lambda: bool(lost))
        until(lambda: (record(store, claim).lease_left_seconds or 0.0) > 2.5)
    assert [name for name, _ in heard] == ["heartbeat.failed"]


def test_an_open_transaction_on_the_key_is_a_call_at_work(
    store: PostgresIdempotencyStore, database: str
) -> None:
    engine = create_engine(database, session={"lock_timeout": "100ms"})
    hurried = PostgresIdempotencyStore(engine)
    claim = claim_of()
    with psycopg.connect(database.replace("+psycopg", "")) as connection:
        connection.execute(
            "INSERT INTO amends.idempotency_record (scope, key, fingerprint, state, repeatable, "
            "token, owner, keep_for, error, claimed_at, ended_at, expires_at) VALUES "
            "(%s, %s, 'x', 'failed', false, %s, 'x', '1 day', '{}', now(), now(), now())",
            (claim.call.scope, claim.call.key, uuid4()),
        )
        assert hurried.claim(claim) is None
        with pytest.raises(IdempotencyInFlightError):
            Till(hurried).take(1, "order-1")
    engine.dispose()


# -- protections -----------------------------------------------------------------------------------


def results_of_a_takeover(store: PostgresIdempotencyStore) -> list[Any]:
    """What callers are told after a slow owner was taken over, and answered last."""
    old = taken(store, claim_of(lease_seconds=SHORT, repeatable=True))
    until(lambda: record(store, old).state is IdempotencyState.UNKNOWN)
    new = taken(store, again(old, lease_seconds=15.0))
    store.finish(old, Released())
    told: list[Any] = [answer(store, again(old))]
    store.finish(new, Succeeded(result="new"))
    store.finish(old, Succeeded(result="old"))
    return [*told, answer(store, again(old))]


FENCED = [InProgress(), Succeeded(result="new")]


def test_the_token_fences_the_end(store: PostgresIdempotencyStore) -> None:
    assert results_of_a_takeover(store) == FENCED


def test_without_the_token_a_stranger_frees_the_key(
    store: PostgresIdempotencyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfenced = statements.FINISH.replace(statements.OWNS, "%(token)s IS NOT NULL")
    assert unfenced != statements.FINISH
    monkeypatch.setattr(statements, "FINISH", unfenced)
    assert results_of_a_takeover(store) != FENCED


def claims_at_once(store: PostgresIdempotencyStore, key: str) -> int:
    """How many of eight callers may run."""
    barrier = threading.Barrier(8)
    claimed: list[Claim] = []

    def run() -> None:
        claim = claim_of(key)
        barrier.wait()
        if isinstance(answer(store, claim), Claimed):
            claimed.append(claim)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return len(claimed)


def test_the_unique_row_lets_one_caller_run(store: PostgresIdempotencyStore) -> None:
    assert {claims_at_once(store, f"order-{number}") for number in range(20)} == {1}


def test_without_the_unique_row_several_callers_run(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql(engine, "ALTER TABLE amends.idempotency_record DROP CONSTRAINT idempotency_record_pkey")
    before, _, rest = statements.CLAIM.partition("ON CONFLICT")
    unguarded = before + rest[rest.index("RETURNING") :]
    monkeypatch.setattr(statements, "CLAIM", unguarded)
    assert max(claims_at_once(store, f"order-{number}") for number in range(20)) > 1


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE amends.idempotency_record SET state = 'lost'",
        "UPDATE amends.idempotency_record SET state = 'succeeded'",
        "UPDATE amends.idempotency_record SET ended_at = now()",
        "UPDATE amends.idempotency_record SET lease_until = NULL",
        "UPDATE amends.idempotency_record SET expires_at = now()",
        "UPDATE amends.idempotency_record SET settled_by = 'ann'",
    ],
)
def test_a_record_that_makes_no_sense_is_refused(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, change: str
) -> None:
    taken(store, claim_of())
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        sql(engine, change)


def as_role(engine: sqlalchemy.Engine, role: str) -> None:
    def connected(connection: Any, _record: Any) -> None:
        connection.autocommit = True
        connection.execute(f"SET ROLE {role}")
        connection.autocommit = False

    sqlalchemy.event.listen(engine, "connect", connected)


def test_a_client_may_run_and_settle_and_only_a_worker_prunes(
    store: PostgresIdempotencyStore, database: str
) -> None:
    client, worker, reader = (create_engine(database) for _ in range(3))
    for each, role in ((client, "client"), (worker, "worker"), (reader, "reader")):
        as_role(each, f"amends_{role}")
    as_client, as_worker, as_reader = map(PostgresIdempotencyStore, (client, worker, reader))

    assert Till(as_client).take(1, "order-1") == 1
    assert Till(as_worker, ttl_seconds=0.001).take(1, "order-2") == 1
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_client.prune()
    until(lambda: as_worker.prune() == 1)
    found = as_reader.read(SCOPE, "order-1")
    assert found is not None
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_reader.claim(claim_of())
    for each in (client, worker, reader):
        each.dispose()
