"""The other side, for sagas of tests in real worker processes: it keeps deeds under their keys.

It behaves as a decent gateway does. A deed that is asked for twice under one key is done once. An
undo closes the door: what comes later under that key is refused. What a test has scripted happens
before or after the deed: it is held, declined, refused for now, or its answer is lost.

`act` and `undo` run in workers. `World` is the test's side of the same tables.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

import psutil
import psycopg
import pytest
from pydantic import BaseModel
from sqlalchemy.engine import make_url

from orchestrator.context import Effect, NothingThere, StepContext
from orchestrator.definition import Retry, SagaDefinition, Step, step
from orchestrator.errors import OutcomeUnknown, Retriable, Terminal
from orchestrator.state import State
from orchestrator.storage.histories import SagaHistory
from tests.deployment import Deployment
from tests.worker_processes import until

QUICK = Retry(max_attempts=5, base=timedelta(milliseconds=20), cap=timedelta(milliseconds=200))
ANY = "*"

TABLES = """
CREATE SCHEMA outside;
CREATE TABLE outside.deed (
    key text PRIMARY KEY, definition text NOT NULL, saga_key text NOT NULL, step text NOT NULL,
    done_at timestamptz, undone_at timestamptz
);
CREATE TABLE outside.call (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, saga_key text NOT NULL,
    step text NOT NULL, direction text NOT NULL, attempt int NOT NULL, pid int NOT NULL,
    called_at timestamptz NOT NULL DEFAULT clock_timestamp(), ended_at timestamptz
);
CREATE TABLE outside.script (
    saga_key text NOT NULL, step text NOT NULL, direction text NOT NULL, says text NOT NULL,
    PRIMARY KEY (saga_key, step, direction)
);
"""

SAYS = """
SELECT says FROM outside.script WHERE saga_key IN (%(saga_key)s, '*') AND step = %(step)s
    AND direction = %(direction)s
ORDER BY saga_key = '*' LIMIT 1
"""

CALL = f"""
INSERT INTO outside.call (saga_key, step, direction, attempt, pid)
VALUES (%(saga_key)s, %(step)s, %(direction)s, %(attempt)s, %(pid)s)
RETURNING number, ({SAYS})
"""  # noqa: S608 - our own constants

DO = """
INSERT INTO outside.deed (key, definition, saga_key, step, done_at)
VALUES (%(key)s, %(definition)s, %(saga_key)s, %(step)s, clock_timestamp())
ON CONFLICT (key) DO UPDATE SET key = excluded.key
RETURNING done_at IS NOT NULL
"""

UNDO = """
INSERT INTO outside.deed (key, definition, saga_key, step, undone_at)
VALUES (%(key)s, %(definition)s, %(saga_key)s, %(step)s, clock_timestamp())
ON CONFLICT (key) DO UPDATE SET undone_at = coalesce(deed.undone_at, excluded.undone_at)
RETURNING done_at IS NOT NULL
"""


class Job(BaseModel):
    """What a saga of these tests is asked to do.

    Args:
        declines: the step that the other side declines.
        loses: the step whose first answer is lost.
        slow_ms: how long every call takes.
    """

    number: int = 0
    declines: str | None = None
    loses: str | None = None
    slow_ms: int = 0


def doing(name: str, **options: Any) -> Step:
    """A step that does a deed, and before the pivot undoes it."""
    if not (options.get("retriable") or options.get("pivot")):
        options.setdefault("compensation", undo)
    quick = {"retry": QUICK, "undo_retry": QUICK, "max_crashes": 50}
    return step(name, **{"run": act, **quick, **options})


def act(ctx: StepContext[Job]) -> Effect:
    """Do the step's deed, once, under its key."""
    with _Call(ctx) as call:
        call.obeys("hold")
        if call.says == "decline" or ctx.payload.declines == ctx.step:
            raise Terminal("declined", code="declined", decisive=True)
        if call.says == "busy":
            raise Retriable("busy")
        if not call.asks(DO):
            raise Terminal("called off before it came", code="called_off", decisive=True)
        call.obeys("hold_after")
        if call.says == "lose" or (ctx.payload.loses == ctx.step and ctx.attempt == 1):
            raise OutcomeUnknown("the answer was lost")
        return Effect(value={"deed": ctx.step_key}, reference=ctx.step_key)


def undo(ctx: StepContext[Job]) -> Effect | NothingThere:
    """Undo the step's deed, or close the door to it."""
    with _Call(ctx) as call:
        call.obeys("hold")
        if call.says == "decline":
            raise Terminal("cannot be undone")
        if call.says == "busy":
            raise Retriable("busy")
        was_done = call.asks(UNDO)
        call.obeys("hold_after")
        return Effect(reference=f"undo of {ctx.step_key}") if was_done else NothingThere()


def called(ctx: StepContext[Any]) -> None:
    """Note that a step is here, and stand still for as long as a test says ``hold``."""
    with _Call(ctx) as call:
        call.obeys("hold")


_connections = threading.local()


def _connection() -> psycopg.Connection[Any]:
    """This thread's connection: the other side is nobody's transaction."""
    found: psycopg.Connection[Any] | None = getattr(_connections, "open", None)
    if found is None or found.closed:
        found = _connections.open = _connect(os.environ["AMENDS_DATABASE_URL"])
    return found


def _connect(url: str) -> psycopg.Connection[Any]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True)


class _Call:
    """One call of a step, from its arrival to its answer."""

    def __init__(self, ctx: StepContext[Any]) -> None:
        known = ctx.effect and ctx.effect.reference
        self._slow_seconds = ctx.payload.slow_ms / 1000
        self._values = {
            "saga_key": ctx.saga_key,
            "step": ctx.step,
            "direction": ctx.direction,
            "attempt": ctx.attempt,
            "pid": os.getpid(),
            "key": known or ctx.step_key,
            "definition": ctx.definition,
        }
        [(self._number, self.says)] = self._rows(CALL)

    def __enter__(self) -> Self:
        time.sleep(self._slow_seconds)
        return self

    def __exit__(self, *_: object) -> None:
        ended = "UPDATE outside.call SET ended_at = clock_timestamp() WHERE number = %s"
        _connection().execute(ended, [self._number])

    def obeys(self, held: str) -> None:
        """Stand still while the script says so, and go on with what it says then."""
        while self.says == held:
            time.sleep(0.01)
            rows = self._rows(SAYS)
            self.says = rows[0][0] if rows else None

    def asks(self, statement: str) -> bool:
        return bool(self._rows(statement)[0][0])

    def _rows(self, statement: str) -> list[tuple[Any, ...]]:
        return _connection().execute(statement, self._values).fetchall()


class Call(NamedTuple):
    """A call that reached the other side; one whose process died never ends."""

    saga_key: str
    step: str
    direction: str
    attempt: int
    pid: int
    called_at: datetime
    ended_at: datetime | None

    @property
    def runs(self) -> bool:
        return self.ended_at is None and psutil.pid_exists(self.pid)


class Deed(NamedTuple):
    """What the other side has in its book under one key."""

    definition: str
    saga_key: str
    step: str
    done_at: datetime | None
    undone_at: datetime | None

    @property
    def stands(self) -> bool:
        return self.done_at is not None and self.undone_at is None


class World:
    """The other side as a test scripts and judges it."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._connection = _connect(deployment.variables["database_url"])
        self._connection.execute(TABLES)

    def close(self) -> None:
        self._connection.close()

    def says(self, what: str, step: str, *, key: str = ANY, direction: str = "forward") -> None:
        """Have calls of a step, of one saga or of any, held, declined, refused for now, or lost.

        What is held goes on as is said next.
        """
        self._connection.execute(
            "INSERT INTO outside.script VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (saga_key, step, direction) DO UPDATE SET says = excluded.says",
            [key, step, direction, what],
        )

    def relents(
        self, step: str | None = None, *, key: str | None = None, direction: str | None = None
    ) -> None:
        """Forget what was scripted: all of it, or what is for a step, a key, a direction."""
        self._connection.execute(
            "DELETE FROM outside.script WHERE step = coalesce(%s, step) "
            "AND saga_key = coalesce(%s, saga_key) AND direction = coalesce(%s, direction)",
            [step, key, direction],
        )

    def calls(self, step: str | None = None, direction: str = "forward") -> list[Call]:
        """The calls of a step, or of all, in their order."""
        rows = self._connection.execute(
            "SELECT saga_key, step, direction, attempt, pid, called_at, ended_at FROM outside.call "
            "WHERE step = coalesce(%s, step) AND direction = %s ORDER BY number",
            [step, direction],
        )
        return [Call(*row) for row in rows.fetchall()]

    def wait_called(self, step: str, count: int = 1, direction: str = "forward") -> list[Call]:
        """Return the calls of a step that run in living processes, once there are so many."""

        def look() -> list[Call]:
            found = [each for each in self.calls(step, direction) if each.runs]
            return found if len(found) >= count else []

        return until(look, seconds=60, what=f"{count} calls of {step} {direction}")

    def deeds(self) -> list[Deed]:
        """Everything in the book, the oldest first."""
        rows = self._connection.execute(
            "SELECT definition, saga_key, step, done_at, undone_at FROM outside.deed "
            "ORDER BY coalesce(done_at, undone_at)"
        )
        return [Deed(*row) for row in rows.fetchall()]

    def violations(self, *definitions: SagaDefinition[Any]) -> list[str]:
        """Where the book says something else than the ends of the sagas."""
        books: dict[tuple[str, str], list[str]] = {}
        for deed in self.deeds():
            if deed.stands:
                books.setdefault((deed.definition, deed.saga_key), []).append(deed.step)
        by_hash = {each.hash: each for each in definitions}
        found = []
        for saga in self._deployment.histories():
            standing = sorted(books.get((saga.definition, saga.key), []))
            expected = _expected(saga, by_hash[saga.definition_hash].steps)
            if expected is not None and standing != expected:
                found.append(f"{saga.key} is {saga.state}, standing: {standing}, not {expected}")
        return found


def _expected(saga: SagaHistory, steps: Sequence[Step]) -> list[str] | None:
    match saga.state:
        case State.COMPLETED:
            return sorted(each.name for each in steps if _does_a_deed(each))
        case State.COMPENSATED:
            return []
        case _:
            return None


def _does_a_deed(step: Step) -> bool:
    return step.run is act or step.compensation is undo


@pytest.fixture
def world(deployment: Deployment) -> Iterator[World]:
    """The other side of a deployment that recovers in seconds."""
    deployment.variables |= {"lease_seconds": 1.5, "sweep_seconds": 0.5}
    opened = World(deployment)
    yield opened
    opened.close()
