"""Events for other services: nothing lost, in order per saga, whatever commits when."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy

from orchestrator.entries import CancelRequested, SagaCompleted
from orchestrator.state import State
from orchestrator.storage import events as statements
from orchestrator.storage.events import SagaEvent
from orchestrator.storage.rows import Advance
from orchestrator.subscription import Subscription, SubscriptionError
from tests.histories import doing, saga
from tests.integration.engine import Engine
from tests.quiet_postgres import quiet  # noqa: F401 - a fixture
from tests.worker_processes import until
from workers.local_servers.running_servers import RunningServers

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("quiet")

SHOP = saga(doing("pay"), attributes=["amount"])
READ = statements.READ
NO_HORIZON = READ.replace(statements._HORIZON, "9223372036854775807")
NO_LOOKING_BACK = READ.replace("l.txid > p.txid", "false")


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


@pytest.fixture
def ledger(engine: Engine) -> Subscription:
    return Subscription(engine.pool, "ledger")


def start(engine: Engine, key: str, connection: sqlalchemy.Connection | None = None) -> UUID:
    return engine.client.start(SHOP, {"amount": 1}, key=key, session=connection).id


def named(events: Sequence[SagaEvent]) -> list[str]:
    return [f"{each.key} {each.kind}" for each in events]


@contextmanager
def numbered(engine: Engine) -> Iterator[sqlalchemy.Connection]:
    """A transaction that has its number and has written nothing yet."""
    with engine.pool.connect() as connection:
        connection.exec_driver_sql("SELECT pg_current_xact_id()")
        yield connection


# -- reading ---------------------------------------------------------------------------------------


def test_a_reader_hears_of_a_sagas_life_and_not_of_its_payload(
    engine: Engine, ledger: Subscription
) -> None:
    saga_id = start(engine, "order-1")
    assert engine.finish(saga_id) == "completed"

    began, ended = ledger.read()
    assert (began.kind, ended.kind) == ("SagaStarted", "SagaCompleted")
    assert began.id == f"{saga_id}:1"
    assert (began.definition, began.version, began.key) == ("shop", 1, "order-1")
    assert began.attributes == {"amount": 1}
    assert began.at < ended.at
    assert "payload" not in began.data


def test_a_saga_taken_back_tells_each_turn(engine: Engine, ledger: Subscription) -> None:
    saga_id = start(engine, "order-1")
    engine.client.cancel(saga_id, reason="changed my mind")
    engine.finish(saga_id)

    assert [each.kind for each in ledger.read()] == [
        *("SagaStarted", "CancelRequested", "UnwindingStarted", "SagaCompensated"),
    ]


def test_what_is_not_acknowledged_is_read_again_also_by_the_next_process(
    engine: Engine, ledger: Subscription
) -> None:
    for number in range(3):
        start(engine, f"order-{number}")
    first = ledger.read()
    assert len(first) == 3
    assert ledger.read() == first

    assert ledger.acknowledge(first[1])
    assert Subscription(engine.pool, "ledger").read() == first[2:]
    assert Subscription(engine.pool, "mailer").read() == first


def test_an_iterator_acknowledges_a_batch_when_the_next_one_is_asked_for(
    engine: Engine, ledger: Subscription
) -> None:
    for number in range(4):
        start(engine, f"order-{number}")
    everything = named(ledger.read())

    heard = ledger.events(batch=2)
    assert named(list(islice(heard, 2))) == everything[:2]
    assert named(ledger.read()) == everything
    assert named([next(heard)]) == everything[2:3]
    assert named(ledger.read()) == everything[2:]
    assert named(list(heard)) == everything[3:]
    assert ledger.read() == []


def test_thousands_of_sagas_are_read_once_each_by_the_partial_index(
    engine: Engine, ledger: Subscription
) -> None:
    total = 5_000
    started = {
        each.key
        for each in engine.client.start_many(
            SHOP, ((f"order-{n}", {"amount": n}) for n in range(total))
        )
    }
    engine.sql("ANALYZE amends.saga_log")
    assert len(started) == total

    heard = list(ledger.events(batch=499))
    assert len(heard) == total
    assert {each.key for each in heard} == started

    [[plan]] = engine.sql(
        "EXPLAIN (FORMAT JSON) "
        + statements.READ.replace("%%", "%")
        .replace("%(txid)s", f"'{heard[2_500].position.txid}'")
        .replace("%(saga_id)s", f"'{heard[2_500].saga_id}'")
        .replace("%(seq)s", "1")
        .replace("%(limit)s", "500")
        .replace("::", r"\:\:")
    )
    assert "'Index Name': 'saga_log_events'" in str(plan)
    scans = [each for each in nodes(plan[0]["Plan"]) if each.get("Relation Name") == "saga_log"]
    assert scans
    assert all("Index" in each["Node Type"] for each in scans), scans


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes(each)


# -- transactions that commit out of order ---------------------------------------------------------


@pytest.mark.parametrize("read", [READ, NO_HORIZON], ids=["horizon", "no horizon"])
def test_an_entry_that_commits_behind_the_reader_is_not_lost(
    engine: Engine, ledger: Subscription, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    """Without the horizon the reader passes by, and the slow start is never heard of."""
    monkeypatch.setattr(statements, "READ", read)
    heard = []
    with numbered(engine) as slow:
        start(engine, "slow", slow)
        start(engine, "quick")
        heard += named(list(ledger.events()))
        slow.commit()
    heard += named(list(ledger.events()))

    lost = [] if read is READ else ["slow SagaStarted"]
    assert [*lost, *heard] == ["slow SagaStarted", "quick SagaStarted"]


@pytest.mark.parametrize("read", [READ, NO_LOOKING_BACK], ids=["looking back", "not looking back"])
@pytest.mark.parametrize("limit", [1, 500])
def test_a_transaction_that_appends_last_is_heard_last(
    engine: Engine,
    ledger: Subscription,
    monkeypatch: pytest.MonkeyPatch,
    read: str,
    limit: int,
) -> None:
    """As a transactional step does: its number is the older one, its entry the later one."""
    monkeypatch.setattr(statements, "READ", read)
    saga_id = start(engine, "order-1")
    log = engine.coordinator.log
    with numbered(engine) as step:
        asked = CancelRequested(reason="too late", actor="client")
        assert log.append_fact(saga_id, asked, [State.RUNNING])
        ended = Advance(saga_id=saga_id, seq=2, entries=[SagaCompleted()], state=State.COMPLETED)
        assert log.advance(ended, step)
        step.commit()
    numbers = engine.sql("SELECT txid FROM amends.saga_log ORDER BY seq")
    assert numbers[2] < numbers[1], "the inversion that this test is about"

    heard = [each.seq for each in ledger.events(limit)]

    first = list(dict.fromkeys(heard))
    assert first == ([1, 2, 3] if read is READ else [1, 3, 2])
    assert ledger.read() == []


def test_an_early_delivery_can_be_acknowledged_without_losing_what_follows(
    engine: Engine, ledger: Subscription
) -> None:
    saga_id = start(engine, "order-1")
    log = engine.coordinator.log
    with numbered(engine) as step:
        log.append_fact(saga_id, CancelRequested(reason="r", actor="a"), [State.RUNNING])
        ended = Advance(saga_id=saga_id, seq=2, entries=[SagaCompleted()], state=State.COMPLETED)
        log.advance(ended, step)
        step.commit()
    early = ledger.read()[1]
    assert early.seq == 2

    ledger.acknowledge(early)

    assert [each.seq for each in ledger.read()] == [2, 3, 2]


def test_many_writers_that_commit_in_any_order_lose_nothing(
    engine: Engine, ledger: Subscription
) -> None:
    """Starts in slow transactions, facts in between, ends under numbers that are old by then."""
    writers, each_writes = 4, 60  # two transactions each: the pool has ten connections
    problems: list[BaseException] = []
    log = engine.coordinator.log

    def write(number: int) -> None:
        dice = random.Random(number)  # noqa: S311 - the same run again
        for index in range(each_writes):
            with numbered(engine) as outer, numbered(engine) as late:
                saga_id = start(engine, f"order-{number}-{index}", outer)
                threading.Event().wait(dice.uniform(0, 0.02))
                outer.commit()
                asked = CancelRequested(reason="r", actor="a")
                assert log.append_fact(saga_id, asked, [State.RUNNING])
                threading.Event().wait(dice.uniform(0, 0.02))
                ended = Advance(
                    saga_id=saga_id, seq=2, entries=[SagaCompleted()], state=State.COMPLETED
                )
                assert log.advance(ended, late)
                late.commit()

    def guarded(number: int) -> None:
        try:
            write(number)
        except BaseException as error:  # noqa: BLE001 - shown by the assertion
            problems.append(error)

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    heard: dict[UUID, list[int]] = defaultdict(list)
    while any(thread.is_alive() for thread in threads):
        for event in ledger.events(batch=7):
            heard[event.saga_id].append(event.seq)
    for thread in threads:
        thread.join()
    for event in ledger.events(batch=7):
        heard[event.saga_id].append(event.seq)

    assert problems == []
    inversions = sum(len(seqs) > 3 for seqs in heard.values())
    print(f"{len(heard)} sagas, {inversions} with an entry that was overtaken")
    assert inversions > 0, "this run met nothing that it was made for"
    assert len(heard) == writers * each_writes
    assert {tuple(dict.fromkeys(seqs)) for seqs in heard.values()} == {(1, 2, 3)}


def test_a_writing_transaction_anywhere_in_the_cluster_holds_events_back_and_is_measured(
    engine: Engine, ledger: Subscription, servers: RunningServers
) -> None:
    other = servers.postgres.create_database("somebody_elses")
    try:
        with psycopg.connect(other.replace("+psycopg", "")) as writer:
            writer.execute("SELECT pg_current_xact_id()")
            start(engine, "order-1")
            assert ledger.read() == []
            held = ledger.lag()
            assert held.unread_seconds is None
            assert held.held_seconds is not None
            assert held.held_seconds > 0
        assert named(ledger.read()) == ["order-1 SagaStarted"]
        lag = ledger.lag()
        assert lag.held_seconds is None
        assert lag.unread_seconds is not None
        list(ledger.events())
        assert ledger.lag().unread_seconds is None
    finally:
        servers.postgres.drop_database("somebody_elses")


def test_a_transaction_that_only_reads_holds_nothing_back(
    engine: Engine, ledger: Subscription
) -> None:
    with engine.pool.connect().execution_options(isolation_level="REPEATABLE READ") as report:
        report.exec_driver_sql("SELECT count(*) FROM amends.saga")
        start(engine, "order-1")
        assert len(ledger.read()) == 1


# -- readers that die, readers that are two --------------------------------------------------------

READER = """
import sys, time
from orchestrator.storage.database import create_engine
from orchestrator.subscription import Subscription
for event in Subscription(create_engine(sys.argv[1]), "ledger").events(batch=10):
    print(event.id, flush=True)
    if event.key == sys.argv[2]:
        time.sleep(60)  # killed here, with the event handled and not acknowledged
"""


def test_a_reader_killed_before_it_acknowledged_leaves_its_batch_to_the_next(
    engine: Engine, database: str, ledger: Subscription
) -> None:
    for number in range(25):
        start(engine, f"order-{number}")
    everything = ledger.read()
    last = everything[14]
    with subprocess.Popen(
        [sys.executable, "-c", READER, database, last.key],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout is not None
        handled = [reader.stdout.readline().strip() for _ in range(15)]
        assert handled == [each.id for each in everything[:15]]
        reader.send_signal(signal.SIGKILL)
        reader.wait()

    again = [each.id for each in ledger.events()]
    assert again == [each.id for each in everything[10:]]
    assert set(handled) | set(again) == {each.id for each in everything}


def test_two_readers_of_one_name_skip_nothing(engine: Engine) -> None:
    for number in range(6):
        start(engine, f"order-{number}")
    one, two = (Subscription(engine.pool, "ledger") for _ in range(2))
    everything = one.read()
    first, second = one.read(limit=2), two.read(limit=4)

    assert two.acknowledge(second[-1])
    assert not one.acknowledge(first[-1]), "the other one has acknowledged more"
    assert one.read() == two.read() == everything[4:]


def test_two_readers_of_one_name_at_once_handle_everything_between_them(engine: Engine) -> None:
    total = 400
    list(engine.client.start_many(SHOP, ((f"order-{n}", {"amount": n}) for n in range(total))))
    heard: list[list[str]] = [[], []]

    def run(mine: list[str]) -> None:
        mine += [each.id for each in Subscription(engine.pool, "ledger").events(batch=3)]

    threads = [threading.Thread(target=run, args=(mine,)) for mine in heard]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len({*heard[0], *heard[1]}) == total


def test_a_forgotten_reader_begins_anew(engine: Engine, ledger: Subscription) -> None:
    start(engine, "order-1")
    assert len(list(ledger.events())) == 1
    assert ledger.forget()
    assert not ledger.forget()
    assert len(ledger.read()) == 1


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 101])
def test_a_name_that_cannot_be_told_apart_is_refused(engine: Engine, name: str) -> None:
    with pytest.raises(SubscriptionError):
        Subscription(engine.pool, name)


# -- after a restore of a dump ---------------------------------------------------------------------

MEND = """
ALTER TABLE amends.saga_log DISABLE TRIGGER saga_log_rows_stay;
UPDATE amends.saga_log SET txid = 0;
ALTER TABLE amends.saga_log ENABLE ALWAYS TRIGGER saga_log_rows_stay;
DELETE FROM amends.subscription;
"""


def test_transaction_numbers_that_began_anew_are_told_and_can_be_mended(
    engine: Engine, ledger: Subscription
) -> None:
    start(engine, "order-1")
    list(ledger.events())
    engine.sql("ALTER TABLE amends.saga_log DISABLE TRIGGER saga_log_rows_stay")
    engine.sql("UPDATE amends.saga_log SET txid = txid + 1000000000")
    engine.sql("UPDATE amends.subscription SET txid = txid + 1000000000")
    engine.sql("ALTER TABLE amends.saga_log ENABLE ALWAYS TRIGGER saga_log_rows_stay")
    start(engine, "order-2")
    with pytest.raises(SubscriptionError, match=r"docs/operating\.md"):
        ledger.read()

    assert MEND in (ROOT / "docs/operating.md").read_text()
    engine.sql(MEND)

    assert sorted(named(ledger.read())) == ["order-1 SagaStarted", "order-2 SagaStarted"]


# -- roles -----------------------------------------------------------------------------------------


def test_a_reading_service_needs_no_more_than_a_clients_role(engine: Engine) -> None:
    start(engine, "order-1")
    for role, may_acknowledge in (("amends_reader", False), ("amends_client", True)):
        pool = sqlalchemy.create_engine(
            engine.pool.url, connect_args={"options": f"-c role={role}"}
        )
        ledger = Subscription(pool, role)
        [event] = ledger.read()
        if may_acknowledge:
            assert ledger.acknowledge(event)
            assert ledger.forget()
        else:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                ledger.acknowledge(event)
        pool.dispose()


def test_a_reader_at_rest_costs_no_write(engine: Engine, ledger: Subscription) -> None:
    start(engine, "order-1")
    list(ledger.events())
    [before] = engine.sql("SELECT updated_at FROM amends.subscription")
    until(lambda: ledger.read() == [], what="silence")
    assert engine.sql("SELECT updated_at FROM amends.subscription") == [before]
