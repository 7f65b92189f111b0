"""Card numbers planted wherever one can be: none is in a table, the broker, a log or an alert.

A real worker runs sagas that leak at every place (`tests.leaky_sagas`). Then every row of every
table, every value in Valkey, everything that went through its channels, every log and every alert
is searched for the numbers. Without one of the protections they are found (what callers send and
steps return has two: the second is on its way into a column).
"""

from __future__ import annotations

import base64
import json
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy
from celery import Celery
from sqlalchemy.orm import Session

from orchestrator.client import NotStarted, SagaClient
from orchestrator.entries import StepSucceeded
from orchestrator.errors import CardNumberError
from orchestrator.state import State
from orchestrator.storage.database import create_engine
from tests.leaky_sagas import (
    IN_LOGS,
    IN_MESSAGES,
    IN_OUTCOMES,
    LEAKY,
    PLACES,
    card,
    grouped,
)
from tests.worker_processes import StartWorker, until
from workers.settings import Settings

QUEUE = "amends:amends"
KEEPS = f"{sys.executable} -c \"import sys; open('{{}}', 'a').write(sys.stdin.read() + chr(10))\""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """What a run left behind, as text, by where it was."""

    tables: str
    broker: str
    channels: str
    logs: str
    alerts: str

    def places(self) -> dict[str, list[str]]:
        """Where which card numbers are found, whole or cut in two."""
        found = {}
        for name in ("tables", "broker", "channels", "logs", "alerts"):
            text = re.sub(r"[\s._-]", "", getattr(self, name))
            if names := [each for each in PLACES if card(each)[:10] in text]:
                found[name] = names
        return found


@dataclass(slots=True)
class Ear:
    """Hears everything that goes through Valkey's channels."""

    valkey: redis.Redis
    heard: list[str] = field(default_factory=list)

    def listen(self) -> None:
        pubsub: Any = self.valkey.pubsub()  # type: ignore[no-untyped-call]
        pubsub.psubscribe("*")
        threading.Thread(target=self._listen, args=(pubsub,), daemon=True).start()

    def _listen(self, pubsub: Any) -> None:
        try:
            for message in pubsub.listen():
                self.heard.append(_read(message["data"]))
        except (redis.exceptions.ConnectionError, ValueError, OSError):
            pass  # the test has ended


@pytest.fixture
def valkey(settings: Settings) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(settings.broker_url or "") as connected:
        yield connected


@dataclass(slots=True, kw_only=True)
class Run:
    """One run of a leaking worker."""

    client: SagaClient
    settings: Settings
    valkey: redis.Redis
    start_worker: StartWorker
    directory: Path

    def traces(self) -> Traces:
        """Run, and return what is left of it."""
        ear = Ear(self.valkey)
        ear.listen()
        alerts = self.directory / "alerts.txt"
        worker = self.start_worker(
            "-E",
            sagas="tests.without_redaction",
            alert_command=KEEPS.format(alerts),
            sweep_seconds="0.5",
        )
        declined = self.client.start(LEAKY, {"order_id": "1", "note": "decline"}, key="declined")
        parked = self.client.start(LEAKY, {"order_id": "2"}, key="parked")
        self._send_messages()
        assert self.client.wait(declined.id, timeout=60).state is State.COMPENSATED
        assert self.client.wait(parked.id, timeout=60).state is State.STUCK
        until(alerts.exists, seconds=60, what="the alert")
        until(lambda: not self.valkey.llen(QUEUE), what="an empty queue")
        until(lambda: self._is_answered(worker.log), what="answers to the messages")
        worker.terminate()
        worker.wait_end(30)
        return Traces(
            tables="\n".join(self._rows()),
            broker="\n".join(self._values()),
            channels="\n".join(ear.heard),
            logs="\n".join(each.read_text(errors="replace") for each in self._logs()),
            alerts=alerts.read_text(),
        )

    def _send_messages(self) -> None:
        """Start by message with card numbers, and send what nobody knows and nobody can read."""
        stranger = Celery("stranger", broker=self.settings.broker_url, set_as_current=False)
        stranger.conf.broker_transport_options = {"global_keyprefix": "amends:"}
        for arguments in (
            {"saga": "leaky", "key": "m1", "payload": {"order_id": card("message.payload")}},
            {"saga": "leaky", "key": card("message.key"), "payload": {"order_id": "m2"}},
        ):
            stranger.send_task("amends.start", kwargs=arguments, queue="amends")
        stranger.send_task("nobody.knows", kwargs={"card": card("message.unknown")}, queue="amends")
        stranger.close()
        self.valkey.lpush(QUEUE, f"no message {card('message.garbage')}")

    def _is_answered(self, log: str) -> bool:
        started = self.client.find(key="m1") + self.client.find(key=card("message.key"))
        return log.count('"start.refused"') + len(started) == 2

    def _rows(self) -> Iterator[str]:
        engine = create_engine(self.settings.require_database_url())
        with engine.connect() as connection:
            tables = connection.exec_driver_sql(
                "SELECT table_schema || '.' || quote_ident(table_name) "
                "FROM information_schema.tables "
                "WHERE table_schema NOT IN ('pg_catalog', 'information_schema') "
                "AND table_type = 'BASE TABLE'"
            ).scalars()
            names = list(tables)
            assert {"amends.saga", "amends.saga_log", "amends.alert", "shop.stock"} <= set(names)
            for name in names:
                rows = connection.execute(sqlalchemy.text(f"SELECT t::text FROM {name} t"))  # noqa: S608
                yield from rows.scalars()
        engine.dispose()

    def _values(self) -> Iterator[str]:
        for key in self.valkey.scan_iter():
            yield _read(key)
            kind = self.valkey.type(key)
            match kind:
                case b"list":
                    yield from map(_read, self.valkey.lrange(key, 0, -1))
                case b"hash":
                    yield from map(_read, self.valkey.hgetall(key).values())
                case b"set":
                    yield from map(_read, self.valkey.smembers(key))
                case b"zset":
                    yield from map(_read, self.valkey.zrange(key, 0, -1))
                case _:
                    yield _read(self.valkey.get(key))

    def _logs(self) -> Sequence[Path]:
        found = sorted(self.directory.glob("*.log"))
        assert found
        return found


def _read(value: Any) -> str:
    """Whatever Valkey holds as text, with the body of a message decoded."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    try:
        body = json.loads(text)["body"]
        return text + base64.b64decode(body).decode(errors="replace")
    except (ValueError, KeyError, TypeError):
        return text


@pytest.fixture
def run(
    client: SagaClient,
    settings: Settings,
    valkey: redis.Redis,
    start_worker: StartWorker,
    tmp_path: Path,
) -> Run:
    return Run(
        client=client,
        settings=settings,
        valkey=valkey,
        start_worker=start_worker,
        directory=tmp_path,
    )


def test_no_planted_card_number_is_left_anywhere(run: Run) -> None:
    traces = run.traces()

    assert traces.places() == {}
    assert "987" not in re.findall(r"cvv\W+(\w+)", traces.tables + traces.logs)
    assert [each for each in IN_OUTCOMES if _masked(each) not in traces.tables] == []
    assert [each for each in IN_LOGS if _masked(each) not in traces.logs] == []
    assert [each for each in IN_MESSAGES if _masked(each) not in traces.logs] == ["message.garbage"]
    assert traces.logs.count('"redaction.applied"') >= 10
    assert "task-received" in traces.channels


def _masked(place: str) -> str:
    return "*" * 12 + card(place)[12:]


def test_a_step_in_place_sees_what_the_log_keeps(run: Run) -> None:
    run.traces()

    (found,) = run.client.find(key="parked")
    results = {
        each.entry.step: each.entry.result
        for each in run.client._log.entries(found.id)
        if isinstance(each.entry, StepSucceeded)
    }
    assert results["see"] == {"seen": results["tell"]}


@pytest.mark.parametrize(
    ("without", "where", "places"),
    [
        ("outcomes", "tables", {"result", "reference", "error.message", "error.cut", "details"}),
        ("lines", "logs", {"log.event", "log.repr", "log.args", "log.traceback"}),
        ("events", "channels", {"message.payload", "message.key"}),
        ("door", "tables", {"message.key", "message.payload"}),
    ],
)
def test_without_one_protection_they_are_found(
    run: Run, monkeypatch: pytest.MonkeyPatch, without: str, where: str, places: set[str]
) -> None:
    monkeypatch.setenv("WITHOUT", without)

    found = run.traces().places()

    assert set(found[where]) >= places


# The door.


def test_a_start_with_a_card_number_is_refused_and_nothing_is_written(
    client: SagaClient, database: str
) -> None:
    good = {"order_id": "1"}
    for payload, key, trace, where in (
        ({"order_id": card("door")}, "k", None, "payload.order_id"),
        (
            {**good, "note": [{"text": f"my card {grouped('door')}"}]},
            "k",
            None,
            "payload.note.0.text",
        ),
        ({**good, "note": {"cvv": 987}}, "k", None, "payload.note.cvv"),
        (good, f"order-{card('door')}", None, "key"),
        (good, "k", {"baggage": f"card={card('door')}"}, "trace.baggage"),
    ):
        with pytest.raises(CardNumberError) as refused:
            client.start(LEAKY, payload, key=key, trace=trace)
        assert refused.value.field == where
        assert card("door")[:10] not in str(refused.value)
    engine = create_engine(database)
    with pytest.raises(CardNumberError), Session(engine) as session:
        client.start(LEAKY, {"order_id": card("door")}, key="k", session=session)
    engine.dispose()

    assert client.find() == []


def test_a_row_with_a_card_number_is_refused_and_the_others_start(client: SagaClient) -> None:
    rows = [
        ("1", {"order_id": "1"}),
        ("2", {"order_id": card("row")}),
        (card("row"), {"order_id": "3"}),
    ]

    first, *others = client.start_many(LEAKY, rows)

    assert not isinstance(first, NotStarted)
    errors = [each.error for each in others if isinstance(each, NotStarted)]
    assert [getattr(each, "field", None) for each in errors] == ["payload.order_id", "key"]


def test_what_others_tell_a_saga_is_refused_too(client: SagaClient) -> None:
    started = client.start(LEAKY, {"order_id": "1"}, key="1")

    with pytest.raises(CardNumberError, match=r"^signal\.payload\.card holds"):
        client.signal(started.id, "paid", {"card": card("signal")}, dedup_id="1")
    with pytest.raises(CardNumberError, match=r"^signal\.dedup_id holds"):
        client.signal(started.id, "paid", dedup_id=card("signal"))
    with pytest.raises(CardNumberError, match=r"^reason holds"):
        client.cancel(started.id, reason=f"holder of {card('reason')} called")
    with pytest.raises(CardNumberError, match=r"^actor holds"):
        client.cancel(started.id, reason="he called", actor=card("actor"))


def test_what_slips_past_every_door_is_hidden_on_its_way_into_the_log(
    client: SagaClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.payloads.refuse_card_data", lambda _value, _field: None)
        started = client.start(LEAKY, {"order_id": card("net")}, key="1")

    (entry,) = client._log.entries(started.id)
    assert card("net") not in str(entry)
    assert _masked("net") in str(entry)
