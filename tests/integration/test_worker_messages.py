"""What workers make of messages: starts by name, raw bytes of any language, and rubbish."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
import redis
from celery import Celery
from sqlalchemy import Engine, text

from orchestrator.client import SagaClient
from orchestrator.state import State
from orchestrator.storage.database import Database, create_engine
from orchestrator.storage.processes import Processes
from recovery.sweep_loop import KIND as SWEEPER
from tests.raw_messages import envelope
from tests.sagas_for_workers import INLINE
from tests.worker_processes import StartWorker, until
from workers import connect
from workers.settings import Settings

QUEUE = "amends:amends"
STEP = f"{INLINE.name}.flight"


@pytest.fixture
def valkey(broker_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(broker_url) as connected:
        yield connected


def _completed(client: SagaClient, key: str) -> bool:
    found = client.find(key=key)
    return bool(found) and found[0].state is State.COMPLETED


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = create_engine(database)
    yield made
    made.dispose()


def test_a_saga_starts_by_name_without_any_of_our_code(
    client: SagaClient, settings: Settings, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    stranger = Celery("stranger", broker=settings.broker_url, set_as_current=False)
    stranger.conf.broker_transport_options = {"global_keyprefix": "amends:"}

    arguments = {"saga": INLINE.name, "key": "by-name", "payload": {"directory": str(tmp_path)}}
    for _ in range(2):
        stranger.send_task("amends.start", kwargs=arguments, queue="amends", ignore_result=True)
    stranger.close()

    until(lambda: _completed(client, "by-name"), what="the saga")
    assert len(client.find(key="by-name")) == 1


def test_a_saga_starts_from_raw_bytes(
    client: SagaClient, valkey: redis.Redis, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    arguments = {"saga": INLINE.name, "key": "raw", "payload": {"directory": str(tmp_path)}}

    valkey.lpush(QUEUE, envelope("amends.start", arguments))

    until(lambda: _completed(client, "raw"), what="the saga")


REFUSED_STARTS: dict[str, dict[str, object]] = {
    "unknown saga": {"saga": "nothing", "key": "1", "payload": {}},
    "bad payload": {"saga": INLINE.name, "key": "1", "payload": {"directory": 7}},
    "bad key": {"saga": INLINE.name, "key": "", "payload": {"directory": "."}},
    "other payload under a used key": {
        "saga": INLINE.name,
        "key": "used",
        "payload": {"directory": "/elsewhere"},
    },
    "no payload": {"saga": INLINE.name, "key": "1"},
    "nothing": {},
}


def test_starts_that_can_never_succeed_are_told_of_and_dropped(
    client: SagaClient, valkey: redis.Redis, start_worker: StartWorker, tmp_path: Path
) -> None:
    client.start(INLINE, {"directory": str(tmp_path)}, key="used")
    worker = start_worker()

    for arguments in REFUSED_STARTS.values():
        valkey.lpush(QUEUE, envelope("amends.start", arguments))

    until(lambda: worker.log.count('"start.refused"') == len(REFUSED_STARTS), what="the refusals")
    until(lambda: _completed(client, "used"), what="the saga that was there before")
    assert valkey.llen(QUEUE) == 0
    assert "Traceback" not in worker.log


def _rubbish() -> dict[str, bytes]:
    step = f"{INLINE.name}.hotel"
    good = {"saga_id": str(uuid.uuid4()), "attempt": 1}
    return {
        "no JSON at all": b"\xff\xfe rubbish",
        "JSON, but no envelope": b"[1, 2]",
        "a null": b"null",
        "an empty envelope": b"{}",
        "no properties": b'{"body": "", "headers": {"task": "x", "id": "y"}}',
        "a body that is no base64": envelope(step, good).replace(b'"body": "', b'"body": "%'),
        "a body that is no JSON": envelope(step, good, body=b"{{{"),
        "a body of another shape": envelope(step, good, body=b"7"),
        "pickle": envelope(
            step,
            good,
            body=b"cos\nsystem\n(S'exit'\ntR.",
            **{"content-type": "application/x-python-serialize"},
        ),
        "an unknown task": envelope("nobody.knows", good),
        "a task that is no string": envelope(7, good),
        "no attempt": envelope(step, {"saga_id": good["saga_id"]}),
        "no id": envelope(step, {"saga_id": "42", "attempt": 1}),
        "a huge attempt": envelope(step, good | {"attempt": 10**30}),
        "an attempt that is true": envelope(step, good | {"attempt": True}),
        "positional arguments": envelope(step, {}, args=[good["saga_id"], 1]),
        "arguments that are no mapping": envelope(step, [1, 2]),
        "an attempt nobody scheduled": envelope(step, good),
        "unknown arguments": envelope(step, good | {"amount": 100}),
    }


@pytest.mark.parametrize("profile", ["fast", "redeliver"])
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_rubbish_changes_nothing(
    client: SagaClient,
    valkey: redis.Redis,
    start_worker: StartWorker,
    tmp_path: Path,
    pool: str,
    profile: str,
) -> None:
    worker = start_worker(pool=pool, broker_profile=profile)

    for rubbish in _rubbish().values():
        valkey.lpush(QUEUE, rubbish)
    started = client.start(INLINE, {"directory": str(tmp_path)}, key="after")

    assert client.wait(started.id).state is State.COMPLETED
    assert valkey.llen(QUEUE) == 0
    assert worker.is_alive


FORGED_LIMIT_SECONDS = 0.3


def test_a_step_s_message_cannot_choose_a_time_limit(
    client: SagaClient,
    settings: Settings,
    engine: Engine,
    valkey: redis.Redis,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    start_worker(pool="prefork", concurrency="1", sweep_seconds="600")
    saga_id = _start_unrung(settings, engine, tmp_path, blocks="flight")

    valkey.lpush(QUEUE, _chosen(saga_id, timelimit=[FORGED_LIMIT_SECONDS, None]))
    call = tmp_path / "flight.forward.1"
    child = int(until(lambda: call.exists() and call.read_text(), what="the call"))
    until(
        lambda: (
            not psutil.pid_exists(child)
            or time.time() - call.stat().st_mtime > 5 * FORGED_LIMIT_SECONDS
        ),
        what="a call that is longer than the limit",
    )

    assert psutil.pid_exists(child)
    (tmp_path / "open").touch()
    assert client.wait(saga_id).state is State.COMPLETED
    assert not (tmp_path / "flight.forward.2").exists()


@pytest.mark.parametrize("pool", ["threads", "prefork"])
@pytest.mark.parametrize(
    "choices",
    [
        {"eta": "2999-01-01T00:00:00+00:00"},
        {"eta": "tomorrow"},
        {"expires": "2000-01-01T00:00:00+00:00"},
    ],
    ids=["later", "nonsense", "over"],
)
def test_a_step_s_message_cannot_choose_its_hour(
    client: SagaClient,
    settings: Settings,
    engine: Engine,
    valkey: redis.Redis,
    start_worker: StartWorker,
    tmp_path: Path,
    pool: str,
    choices: dict[str, Any],
) -> None:
    start_worker(pool=pool, concurrency="1", sweep_seconds="600")
    saga_id = _start_unrung(settings, engine, tmp_path)

    valkey.lpush(QUEUE, _chosen(saga_id, **choices))

    assert client.wait(saga_id).state is State.COMPLETED


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_step_s_message_sends_no_other_after_it(
    client: SagaClient,
    settings: Settings,
    engine: Engine,
    valkey: redis.Redis,
    start_worker: StartWorker,
    tmp_path: Path,
    pool: str,
) -> None:
    worker = start_worker(pool=pool, concurrency="1", sweep_seconds="600")
    saga_id = _start_unrung(settings, engine, tmp_path)
    follow_up = {"task": "amends.start", "args": [], "kwargs": {}, "options": {"queue": "amends"}}
    follow_ups = {each: [follow_up] for each in ("callbacks", "errbacks", "chain")}
    arguments = {"saga_id": str(saga_id), "attempt": 1}

    valkey.lpush(
        QUEUE,
        envelope(STEP, {}, body=json.dumps([[], arguments, follow_ups]).encode()),
    )

    assert client.wait(saga_id).state is State.COMPLETED
    after = client.start(INLINE, {"directory": str(tmp_path)}, key="after")
    assert client.wait(after.id).state is State.COMPLETED
    assert "start.refused" not in worker.log


def _start_unrung(settings: Settings, engine: Engine, directory: Path, **payload: str) -> UUID:
    """A saga that nobody but a message of the test begins: the worker's first sweep is over."""
    register = Processes(Database(engine))
    until(
        lambda: [each for each in register.all() if each.process.kind == SWEEPER],
        what="the worker's sweeper",
    )
    silent = connect(settings.model_copy(update={"broker_url": None}))
    started = silent.start(INLINE, {"directory": str(directory), **payload}, key="unrung")
    silent.close()
    return started.id


def _chosen(saga_id: UUID, **choices: Any) -> bytes:
    """A ring of the saga's first attempt, with headers that only Celery knows."""
    arguments = {"saga_id": str(saga_id), "attempt": 1}
    headers = {"task": STEP, "id": str(uuid.uuid4()), **choices}
    return envelope(STEP, arguments, headers=headers)


def test_the_ring_of_a_step_this_worker_does_not_have_is_soon_rung_again(
    client: SagaClient, engine: Engine, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker()
    train = replace(INLINE.step("flight"), name="train")
    newer = replace(INLINE, version=2, steps=[train, *INLINE.steps])

    started = client.start(newer, {"directory": str(tmp_path)}, key="newer")

    until(lambda: _seconds_to_next_ring(engine) < 3, seconds=8, what="the next ring")
    assert client.get(started.id).seq == 1
    assert worker.is_alive


def _seconds_to_next_ring(engine: Engine) -> float:
    query = "SELECT extract(epoch FROM ring_at - clock_timestamp())::float8 FROM amends.attempt"
    with engine.connect() as connection:
        return float(connection.execute(text(query)).scalar_one())
