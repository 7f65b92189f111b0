"""Idempotency between processes: many callers at once, and owners that are killed or stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from orchestrator.idempotency import IdempotencyState, Released, settle
from orchestrator.idempotency_record import IdempotencyRecord
from orchestrator.storage.database import create_engine
from orchestrator.storage.idempotency import PostgresIdempotencyStore
from tests.worker_processes import until

ROOT = Path(__file__).parents[2]
KEY = "order-1"
LEASE_SECONDS = 1.5


class Caller:
    """One process of `tests.idempotent_callers`."""

    def __init__(self, url: str, name: str, *, callers: int = 1, hangs: bool = False) -> None:
        arguments = [url, name, KEY, str(callers), str(LEASE_SECONDS), *(["hangs"] * hangs)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.idempotent_callers", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.reads("ready")

    def reads(self, line: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == line

    def goes_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("now\n")
        self.process.stdin.flush()

    def answers(self) -> list[Any]:
        """What its callers were told, once all were."""
        output, _ = self.process.communicate(timeout=60)
        return [json.loads(line) for line in output.splitlines() if line != "running"]


class Shop:
    """The database of a test, and the processes that call on it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = create_engine(url)
        self.store = PostgresIdempotencyStore(self.engine)
        self.started: list[Caller] = []
        self._sql("CREATE TABLE public.effect (id int GENERATED ALWAYS AS IDENTITY, key text)")

    def caller(self, name: str, **options: Any) -> Caller:
        self.started.append(Caller(self.url, name, **options))
        return self.started[-1]

    def effects(self) -> list[int]:
        return [row[0] for row in self._sql("SELECT id FROM public.effect ORDER BY id")]

    def record(self, name: str) -> IdempotencyRecord:
        found = self.store.read(name, KEY)
        assert found is not None
        return found

    def lapses(self, name: str) -> None:
        """Wait until the lease of the call is over."""
        until(lambda: self.record(name).state is IdempotencyState.UNKNOWN)

    def close(self) -> None:
        for each in self.started:
            each.process.kill()
            each.process.communicate()
        self.engine.dispose()

    def _sql(self, statement: str) -> list[Any]:
        with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def shop(database: str) -> Iterator[Shop]:
    made = Shop(database)
    yield made
    made.close()


def killed(shop: Shop, name: str) -> None:
    """Start an owner, and kill it after its effect and before its answer."""
    owner = shop.caller(name, hangs=True)
    owner.goes_on()
    owner.reads("running")
    owner.process.send_signal(signal.SIGKILL)
    owner.process.wait()


def test_a_hundred_callers_in_four_processes_cause_one_effect(shop: Shop) -> None:
    callers = [shop.caller("charge", callers=25) for _ in range(4)]
    for each in callers:
        each.goes_on()
    answers = [answer for each in callers for answer in each.answers()]
    assert answers == [{"effect": 1}] * 100
    assert shop.effects() == [1]


def test_an_owner_that_was_killed_leaves_an_unknown_that_nobody_runs_again(shop: Shop) -> None:
    killed(shop, "charge")
    assert shop.record("charge").state is IdempotencyState.IN_PROGRESS
    others = [shop.caller("charge", callers=5) for _ in range(2)]
    for each in others:
        each.goes_on()
    assert [answer for each in others for answer in each.answers()] == ["OutcomeUnknown"] * 10
    assert [each.call.key for each in shop.store.unknown()] == [KEY]
    assert shop.effects() == [1]


def test_a_killed_owner_that_was_settled_as_not_there_is_run_again_once(shop: Shop) -> None:
    killed(shop, "charge")
    shop.lapses("charge")
    settle(shop.store, "charge", KEY, Released(), by="ann", because="the ledger has no charge")
    others = [shop.caller("charge", callers=5) for _ in range(2)]
    for each in others:
        each.goes_on()
    assert [answer for each in others for answer in each.answers()] == [{"effect": 2}] * 10


def test_a_repeatable_function_whose_owner_was_killed_is_run_again_once(shop: Shop) -> None:
    killed(shop, "estimate")
    others = [shop.caller("estimate", callers=5) for _ in range(2)]
    for each in others:
        each.goes_on()
    assert [answer for each in others for answer in each.answers()] == [{"effect": 2}] * 10
    assert shop.effects() == [1, 2]


@pytest.mark.parametrize(("name", "told"), [("charge", 1), ("estimate", 2)])
def test_an_owner_that_stood_still_beyond_its_lease_cannot_contradict_who_came_after(
    shop: Shop, name: str, told: int
) -> None:
    """A charge was run by nobody else, so its late answer counts; an estimate was run again."""
    owner = shop.caller(name, hangs=True)
    owner.goes_on()
    owner.reads("running")
    owner.process.send_signal(signal.SIGSTOP)
    shop.lapses(name)
    other = shop.caller(name)
    other.goes_on()
    assert other.answers() == [{"effect": told} if told > 1 else "OutcomeUnknown"]
    owner.process.send_signal(signal.SIGCONT)
    owner.goes_on()
    assert owner.answers() == [{"effect": told}]
    assert shop.record(name).result == {"effect": told}
