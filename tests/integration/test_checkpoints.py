"""A claim costs the same however long the log is; and what a checkpoint says is never the truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy

from orchestrator import checkpoints
from orchestrator.checkpoints import EVERY, KEPT_SIGNALS
from orchestrator.context import StepContext
from orchestrator.errors import Wait
from orchestrator.folding import replay
from orchestrator.state import FoldedSaga
from tests.histories import doing, saga
from tests.integration.engine import Engine, events

HEARD: list[Any] = []


def listens(context: StepContext[Any]) -> None:
    """Wait for news, one after the other, until there is the last."""
    if context.signalled:
        HEARD.append(context.signal)
    if context.signal != "last":
        raise Wait("news", until=context.now + timedelta(hours=1))


SHOP = saga(doing("listen", run=listens), doing("pay"))


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    HEARD.clear()
    made = Engine(database, SHOP)
    yield made
    made.close()


def start(engine: Engine) -> UUID:
    return engine.client.start(SHOP, {}, key="order").id


def plant(engine: Engine, saga_id: UUID, count: int, *, last: bool = False) -> None:
    """Let the saga have heard so many news more."""
    engine.sql(
        "INSERT INTO amends.saga_log (saga_id, seq, kind, data) "
        "SELECT s.id, s.seq + n, 'SignalReceived', jsonb_build_object('name', 'news', "
        "'dedup_id', s.seq + n, 'payload', "
        "CASE WHEN :last AND n = :count THEN to_jsonb('last'::text) ELSE to_jsonb(n) END) "
        "FROM amends.saga s, generate_series(1, :count) n WHERE s.id = :id",
        id=saga_id,
        count=count,
        last=last,
    )
    engine.sql("UPDATE amends.saga SET seq = seq + :count WHERE id = :id", id=saga_id, count=count)


def kept(engine: Engine, saga_id: UUID) -> list[tuple[str, int]]:
    return [
        (row[0], row[1])
        for row in engine.sql(
            "SELECT form, seq FROM amends.checkpoint WHERE saga_id = :id ORDER BY seq", id=saga_id
        )
    ]


def state_of(engine: Engine, saga_id: UUID) -> FoldedSaga:
    """The state as a claim gets it: from the checkpoint on."""
    snapshot = engine.coordinator.log.read_on(saga_id)
    assert snapshot is not None
    return engine.coordinator.mover._folded(snapshot)


def test_a_short_saga_has_no_checkpoint(engine: Engine) -> None:
    saga_id = start(engine)
    plant(engine, saga_id, 1, last=True)
    assert engine.finish(saga_id) == "completed"
    assert kept(engine, saga_id) == []


def test_a_claim_reads_what_follows_the_last_checkpoint(engine: Engine) -> None:
    saga_id = start(engine)
    plant(engine, saga_id, 3 * EVERY)
    engine.work()
    [(form, seq)] = kept(engine, saga_id)
    assert form == checkpoints.form()
    snapshot = engine.coordinator.log.read_on(saga_id)
    assert snapshot is not None
    assert snapshot.entries[0].seq == seq + 1
    assert snapshot.saga.seq == snapshot.entries[-1].seq
    assert len(snapshot.entries) < EVERY


def test_a_look_writes_and_uses_checkpoints_too(engine: Engine) -> None:
    saga_id = start(engine)
    plant(engine, saga_id, EVERY)
    engine.coordinator.mover.look(saga_id)
    assert [seq for _, seq in kept(engine, saga_id)] == [EVERY + 1]


@pytest.mark.parametrize("inline", [True, False])
def test_every_signal_is_heard_once_and_in_order_however_many_there_are(
    engine: Engine, inline: bool
) -> None:
    saga_id = start(engine)
    count = KEPT_SIGNALS + 10
    plant(engine, saga_id, EVERY)
    engine.coordinator.mover.look(saga_id)
    plant(engine, saga_id, count, last=True)
    assert engine.finish(saga_id, inline=inline) == "completed"
    assert [*range(1, EVERY + 1), *range(1, count), "last"] == HEARD
    log = engine.coordinator.log.entries(saga_id)
    assert state_of(engine, saga_id).steps == replay(log).steps


# -- what is not believed --------------------------------------------------------------------------


def with_checkpoint(engine: Engine) -> UUID:
    saga_id = start(engine)
    plant(engine, saga_id, EVERY)
    engine.coordinator.mover.look(saga_id)
    assert kept(engine, saga_id)
    plant(engine, saga_id, 1, last=True)
    return saga_id


@pytest.mark.parametrize(
    "state",
    ["{}", "null", "[]", '{"seq": 101, "flies": true}', '{"seq": 100}'],
)
def test_a_damaged_checkpoint_stops_nothing(engine: Engine, state: str) -> None:
    saga_id = with_checkpoint(engine)
    engine.sql("UPDATE amends.checkpoint SET state = CAST(:state AS json)", state=state)
    assert engine.finish(saga_id) == "completed"
    assert HEARD[-1] == "last"
    assert len(HEARD) == EVERY + 1


def test_a_checkpoint_by_other_rules_is_left_alone(engine: Engine) -> None:
    saga_id = with_checkpoint(engine)
    wrong = json.dumps({"seq": EVERY + 1, "phase": "resolved"})
    engine.sql(
        "UPDATE amends.checkpoint SET form = 'newer', state = CAST(:state AS json)", state=wrong
    )
    assert engine.finish(saga_id) == "completed"
    forms = dict(kept(engine, saga_id))
    assert forms["newer"] == EVERY + 1
    assert forms[checkpoints.form()] > EVERY


def test_a_checkpoint_that_cannot_be_written_stops_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def formless(_state: FoldedSaga) -> None:
        raise TypeError("has no form in JSON")

    monkeypatch.setattr(checkpoints, "encoded", formless)
    saga_id = start(engine)
    plant(engine, saga_id, EVERY + 5, last=True)
    with events() as heard:
        assert engine.finish(saga_id) == "completed"
    assert "checkpoint.not_kept" in [event for event, _ in heard]
    assert kept(engine, saga_id) == []


def test_an_older_checkpoint_never_replaces_a_newer(engine: Engine) -> None:
    saga_id = with_checkpoint(engine)
    log = engine.coordinator.log
    older = replay(log.entries(saga_id)[: EVERY - 10])
    assert not log.keep_checkpoint(saga_id, older)
    assert [seq for _, seq in kept(engine, saga_id)] == [EVERY + 1]


def test_a_checkpoint_ahead_of_its_saga_is_neither_kept_nor_read(engine: Engine) -> None:
    saga_id = with_checkpoint(engine)
    log = engine.coordinator.log
    ahead = checkpoints.decoded({"seq": 1_000_000})
    assert ahead is not None
    assert not log.keep_checkpoint(saga_id, ahead)
    engine.sql("UPDATE amends.checkpoint SET seq = 1000000")
    snapshot = log.read_on(saga_id)
    assert snapshot is not None
    assert snapshot.base is None
    assert snapshot.entries == log.entries(saga_id)


# -- who may write it ------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["amends_client", "amends_reader", "amends_janitor"])
def test_only_workers_write_checkpoints(engine: Engine, role: str) -> None:
    with_checkpoint(engine)
    pool = sqlalchemy.create_engine(
        engine.pool.url, connect_args={"options": f"-c role={role}"}, isolation_level="AUTOCOMMIT"
    )
    with pool.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM amends.checkpoint").scalar() == 1
        for statement in (
            "UPDATE amends.checkpoint SET state = '{}'",
            "DELETE FROM amends.checkpoint",
            "INSERT INTO amends.checkpoint SELECT id, 'mine', 1, '{}' FROM amends.saga",
        ):
            with pytest.raises(sqlalchemy.exc.ProgrammingError) as refused:
                connection.exec_driver_sql(statement)
            assert isinstance(refused.value.orig, psycopg.errors.InsufficientPrivilege)
    pool.dispose()


def test_a_worker_may(engine: Engine) -> None:
    saga_id = start(engine)
    plant(engine, saga_id, EVERY)
    pool = sqlalchemy.create_engine(
        engine.pool.url, connect_args={"options": "-c role=amends_worker"}
    )
    log = type(engine.coordinator.log)(type(engine.coordinator.database)(pool))
    assert log.keep_checkpoint(saga_id, replay(log.entries(saga_id)))
    pool.dispose()


def test_it_goes_with_its_saga(engine: Engine) -> None:
    saga_id = with_checkpoint(engine)
    assert engine.finish(saga_id) == "completed"
    assert kept(engine, saga_id)
    engine.sql(
        "INSERT INTO amends.tombstone (definition, key, saga_id, version, definition_hash, "
        'fingerprint, state, "references", ended_at) SELECT definition, key, id, version, '
        "definition_hash, fingerprint, state, '{}', clock_timestamp() FROM amends.saga"
    )
    engine.sql("DELETE FROM amends.saga WHERE id = :id", id=saga_id)
    assert kept(engine, saga_id) == []
