"""Idempotent functions whose record is part of the caller's transaction: exactly once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from orchestrator.errors import OutcomeUnknown, Retriable, Terminal
from orchestrator.idempotency import (
    IdempotencyConflictError,
    IdempotencyInFlightError,
    IdempotencyState,
    InvalidIdempotencyUsage,
    idempotent,
)
from orchestrator.idempotency_record import Succeeded, Unknown
from orchestrator.storage import idempotency_statements as statements
from orchestrator.storage.database import create_engine
from orchestrator.storage.idempotency import PostgresIdempotencyStore
from tests.idempotency_stores import SCOPE, SHORT, claim_of, store_in, taken
from tests.worker_processes import until

INSERT = "INSERT INTO booking (seat) VALUES (:seat)"


@pytest.fixture
def engine(database: str) -> Iterator[sqlalchemy.Engine]:
    made: sqlalchemy.Engine = create_engine(database)
    with made.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE booking (seat int)")
    yield made
    made.dispose()


@pytest.fixture
def store(engine: sqlalchemy.Engine) -> Iterator[PostgresIdempotencyStore]:
    with store_in(engine) as made:
        yield made


@pytest.fixture(params=[Session, sqlalchemy.Connection], ids=["session", "connection"])
def begin(request: pytest.FixtureRequest, engine: sqlalchemy.Engine) -> Callable[[], Any]:
    """Opens a transaction of the caller, as a context manager that rolls back."""
    return (lambda: Session(engine)) if request.param is Session else engine.connect


def booking(
    store: PostgresIdempotencyStore,
    after: Callable[[Any], object] = lambda _transaction: None,
    **options: Any,
) -> Callable[..., Any]:
    """A function that books a seat, and then does `after`."""

    @idempotent(store, scope=SCOPE, transaction_arg="transaction", **options)
    def book(transaction: Any, seat: int, idempotency_key: str) -> dict[str, int]:
        transaction.execute(text(INSERT), {"seat": seat})
        after(transaction)
        return {"seat": seat}

    return book


def seats(engine: sqlalchemy.Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT seat FROM booking")).scalars())


def raising(error: BaseException) -> Callable[[Any], object]:
    def after(_transaction: Any) -> None:
        raise error

    return after


def test_what_it_wrote_and_its_record_are_committed_together(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, begin: Callable[[], Any]
) -> None:
    book = booking(store)
    for _ in range(2):
        with begin() as transaction:
            assert book(transaction, 7, "order-1") == {"seat": 7}
            assert book(transaction, 7, idempotency_key="order-1") == {"seat": 7}
            transaction.commit()
    assert seats(engine) == [7]


def test_a_rollback_leaves_nothing_and_the_key_free(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, begin: Callable[[], Any]
) -> None:
    book = booking(store)
    with begin() as transaction:
        book(transaction, 7, "order-1")
    assert store.read(SCOPE, "order-1") is None
    with begin() as transaction:
        book(transaction, 8, "order-1")
        transaction.commit()
    assert seats(engine) == [8]


def test_a_process_that_dies_before_the_commit_leaves_the_key_free(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, begin: Callable[[], Any]
) -> None:
    book = booking(store)
    with begin() as transaction:
        book(transaction, 7, "order-1")
        [pid] = transaction.execute(text("SELECT pg_backend_pid()")).one()
        with engine.connect() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        with pytest.raises(sqlalchemy.exc.OperationalError):
            transaction.commit()
    with begin() as transaction:
        assert book(transaction, 7, "order-1") == {"seat": 7}
        transaction.commit()
    assert seats(engine) == [7]


def test_another_payload_is_a_conflict(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, begin: Callable[[], Any]
) -> None:
    book = booking(store)
    with begin() as transaction:
        book(transaction, 7, "order-1")
        with pytest.raises(IdempotencyConflictError):
            book(transaction, 8, "order-1")
        transaction.commit()
    assert seats(engine) == [7]


def test_a_key_in_an_open_transaction_is_a_call_at_work_and_hurts_nobody(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, begin: Callable[[], Any]
) -> None:
    book = booking(store)
    with begin() as first, begin() as second:
        book(first, 7, "order-1")
        with pytest.raises(IdempotencyInFlightError):
            book(second, 7, "order-1")
        book(second, 8, "order-2")
        second.commit()
        first.commit()
    assert sorted(seats(engine)) == [7, 8]


@pytest.mark.parametrize("commits", [True, False])
def test_a_waiting_caller_goes_on_when_the_other_transaction_ends(
    store: PostgresIdempotencyStore,
    engine: sqlalchemy.Engine,
    begin: Callable[[], Any],
    commits: bool,
) -> None:
    calls: list[int] = []
    book = booking(store, lambda _transaction: calls.append(1), wait_seconds=90.0)
    answers: list[Any] = []

    def wait() -> None:
        with begin() as transaction:
            answers.append(book(transaction, 7, "order-1"))
            transaction.commit()

    waiting = threading.Thread(target=wait)
    with begin() as first:
        book(first, 7, "order-1")
        waiting.start()
        (first.commit if commits else first.rollback)()
    waiting.join()
    assert answers == [{"seat": 7}]
    assert len(calls) == (1 if commits else 2)
    assert seats(engine) == [7]


def test_many_transactions_at_once_book_once(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, begin: Callable[[], Any]
) -> None:
    book = booking(store, wait_seconds=90.0)

    def run() -> None:
        with begin() as transaction:
            book(transaction, 7, "order-1")
            transaction.commit()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert seats(engine) == [7]


# -- how it ends -----------------------------------------------------------------------------------


def test_a_terminal_error_undoes_its_writes_and_is_kept_if_the_caller_commits(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, begin: Callable[[], Any]
) -> None:
    book = booking(store, raising(Terminal("sold out", code="sold_out")))
    with begin() as transaction:
        with pytest.raises(Terminal):
            book(transaction, 7, "order-1")
        transaction.execute(text(INSERT), {"seat": 1})
        transaction.commit()
    with begin() as transaction, pytest.raises(Terminal) as again:
        booking(store)(transaction, 7, "order-1")
    assert again.value.code == "sold_out"
    assert seats(engine) == [1]


@pytest.mark.parametrize("error", [Retriable("later"), OutcomeUnknown("?"), ValueError("a bug")])
def test_any_other_error_undoes_its_writes_and_the_key_is_free(
    store: PostgresIdempotencyStore,
    engine: sqlalchemy.Engine,
    begin: Callable[[], Any],
    error: Exception,
) -> None:
    with begin() as transaction:
        with pytest.raises(type(error)):
            booking(store, raising(error))(transaction, 7, "order-1")
        assert booking(store)(transaction, 8, "order-1") == {"seat": 8}
        transaction.commit()
    assert seats(engine) == [8]


def test_a_statement_that_fails_leaves_the_callers_transaction_usable(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, begin: Callable[[], Any]
) -> None:
    book = booking(store, lambda transaction: transaction.execute(text("SELECT 1 / 0")))
    with begin() as transaction:
        with pytest.raises(sqlalchemy.exc.DataError):
            book(transaction, 7, "order-1")
        transaction.execute(text(INSERT), {"seat": 1})
        transaction.commit()
    assert seats(engine) == [1]


@pytest.mark.parametrize("error", [None, Terminal("sold out")])
@pytest.mark.parametrize("misuse", ["commit", "rollback"])
def test_the_function_may_not_end_the_transaction(
    store: PostgresIdempotencyStore,
    engine: sqlalchemy.Engine,
    begin: Callable[[], Any],
    misuse: str,
    error: Exception | None,
) -> None:
    def end(transaction: Any) -> None:
        getattr(transaction, misuse)()
        if error:
            raise error

    book = booking(store, end)
    with begin() as transaction, pytest.raises(InvalidIdempotencyUsage):
        book(transaction, 7, "order-1")
    assert store.read(SCOPE, "order-1") is None
    assert seats(engine) == []


def test_it_may_set_savepoints_and_be_called_within_one(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, begin: Callable[[], Any]
) -> None:
    def changes_its_mind(transaction: Any) -> None:
        nested = transaction.begin_nested()
        transaction.execute(text(INSERT), {"seat": 1})
        nested.rollback()

    book = booking(store, changes_its_mind)
    with begin() as transaction:
        with transaction.begin_nested():
            book(transaction, 7, "order-1")
        abandoned = transaction.begin_nested()
        book(transaction, 8, "order-2")
        abandoned.rollback()
        assert book(transaction, 9, "order-2") == {"seat": 9}
        transaction.commit()
    assert seats(engine) == [7, 9]


class Base(DeclarativeBase):
    pass


class Booking(Base):
    __tablename__ = "booking"
    seat: Mapped[int] = mapped_column(primary_key=True)


def test_objects_that_a_session_has_not_flushed_are_part_of_it(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE UNIQUE INDEX ON booking (seat)")

    @idempotent(store, scope=SCOPE, transaction_arg="session")
    def book(session: Session, seat: int, idempotency_key: str) -> int:
        session.add(Booking(seat=seat))
        return seat

    with Session(engine) as session:
        session.add(Booking(seat=1))
        assert book(session, 7, "order-1") == 7
        with pytest.raises(sqlalchemy.exc.IntegrityError):
            book(session, 1, "order-2")
        assert book(session, 8, "order-2") == 8
        session.commit()
    assert sorted(seats(engine)) == [1, 7, 8]


def test_without_a_transaction_it_does_not_run(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine
) -> None:
    with pytest.raises(InvalidIdempotencyUsage):
        booking(store)(None, 7, "order-1")
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(sqlalchemy.exc.SQLAlchemyError):
            booking(store)(connection, 7, "order-1")
    assert seats(engine) == []


# -- beside other forms ----------------------------------------------------------------------------


def test_a_call_that_nobody_settled_is_unknown_inside_too(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, begin: Callable[[], Any]
) -> None:
    store.finish(taken(store, claim_of(payload={"seat": 7})), Unknown())
    with begin() as transaction, pytest.raises(OutcomeUnknown):
        booking(store)(transaction, 7, "order-1")
    assert seats(engine) == []


def test_who_is_overtaken_by_a_call_outside_undoes_its_own_writes(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, begin: Callable[[], Any]
) -> None:
    def overtake(_transaction: Any) -> None:
        claim = claim_of(payload={"seat": 7})
        store.finish(taken(store, claim), Succeeded(result={"seat": 1}))

    with begin() as transaction:
        assert booking(store, overtake)(transaction, 7, "order-1") == {"seat": 1}
        transaction.commit()
    assert seats(engine) == []


def test_an_end_that_expires_during_the_transaction_counts_as_expired(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, begin: Callable[[], Any]
) -> None:
    """`now()` would stand still at the beginning of the transaction."""
    claim = taken(store, claim_of(payload={"seat": 7}, keep_seconds=SHORT))
    with begin() as transaction:
        transaction.execute(text("SELECT 1"))
        store.finish(claim, Succeeded(result={"seat": 1}))
        until(lambda: store.read(SCOPE, "order-1") is None)
        assert booking(store)(transaction, 7, "order-1") == {"seat": 7}
        transaction.commit()
    assert seats(engine) == [7]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_stricter_isolation_level_fails_rather_than_booking_twice(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, level: str
) -> None:
    book = booking(store)
    strict = engine.execution_options(isolation_level=level)
    with strict.connect() as late, engine.connect() as early:
        late.execute(text("SELECT count(*) FROM booking"))  # its snapshot stands from here on
        book(early, 7, "order-1")
        early.commit()
        with pytest.raises(sqlalchemy.exc.OperationalError) as failed:
            book(late, 7, "order-1")
    assert isinstance(failed.value.orig, psycopg.errors.SerializationFailure)
    with strict.connect() as anew:
        assert book(anew, 7, "order-1") == {"seat": 7}
        anew.commit()
    assert seats(engine) == [7]


def test_an_async_session_runs_it_on_its_own_connection(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, database: str
) -> None:
    book = booking(store)

    async def run() -> Any:
        engine = create_async_engine(
            sqlalchemy.make_url(database).set(drivername="postgresql+psycopg")
        )
        async with AsyncSession(engine) as session:
            answer = await session.run_sync(lambda transaction: book(transaction, 7, "order-1"))
            await session.commit()
        await engine.dispose()
        return answer

    assert [asyncio.run(run()) for _ in range(2)] == [{"seat": 7}] * 2
    assert seats(engine) == [7]


def test_without_the_lock_and_the_unique_row_two_transactions_book(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE amends.idempotency_record DROP CONSTRAINT idempotency_record_pkey"
        )
    before, _, rest = statements.WRITE.partition("ON CONFLICT")
    monkeypatch.setattr(statements, "WRITE", before + rest[rest.index("RETURNING") :])
    monkeypatch.setattr(statements, "LOCK", "SELECT true")
    book = booking(store)
    with engine.connect() as first, engine.connect() as second:
        book(first, 7, "order-1")
        book(second, 7, "order-1")
        first.commit()
        second.commit()
    assert seats(engine) == [7, 7]


def test_without_the_lock_the_unique_row_still_holds(
    store: PostgresIdempotencyStore, engine: sqlalchemy.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "LOCK", "SELECT true")
    book = booking(store)
    second_answers: list[Any] = []

    def second() -> None:
        with engine.connect() as connection:
            second_answers.append(book(connection, 7, "order-1"))
            connection.commit()

    with engine.connect() as first:
        book(first, 7, "order-1")
        thread = threading.Thread(target=second)
        thread.start()
        until(lambda: _waits_for_a_lock(engine))
        first.commit()
    thread.join()
    assert second_answers == [{"seat": 7}]
    assert seats(engine) == [7]
    found = store.read(SCOPE, "order-1")
    assert found is not None
    assert found.state is IdempotencyState.SUCCEEDED


def _waits_for_a_lock(engine: sqlalchemy.Engine) -> bool:
    with engine.connect() as connection:
        waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return bool(connection.execute(waiting).scalar())
