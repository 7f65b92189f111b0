"""The barrier: what a step does in a database of the participant's own happens once, and in order.

A participant whose effects are rows of its own database (not the one that holds the saga log) can
do better than any remote party: it writes, in the transaction of the effect, which action the
effect belongs to. One row per action, named by the step's forward key, inserted *before* the
effect. Whoever inserts it decides; everybody else reads what became of it:

    (no row) ──act──▶ done ──undo──▶ undone     (undone again under a later undo key)
        └────undo──▶ closed

done     A repetition finds the first answer and has no effect.
closed   The compensation came although the action never ran. It did nothing, and closed the door:
         an action that arrives later (a worker that was stopped, a message that was lost) is
         refused, as it is after `undone`. It knows that no effect of its key stands.

Why it is right under READ COMMITTED: two transactions cannot both insert a key. The second waits in
its INSERT until the first has ended. Committed, the row is there to read; rolled back, there is
no row, and the second goes on as if it had come first. What is read is locked, so an undo that is
under way is waited for, too. At a stricter level the second gets a serialization failure where the
first committed; that, a deadlock and a lock timeout say nothing of the step: `Retriable`, and no
budget is spent.

A key of a later generation is a new action, and shuts the doors of the earlier ones. Should an
earlier one turn out to stand, against what the log was told, its answer is this action's too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from itertools import takewhile
from typing import Any, cast

import psycopg
import sqlalchemy
from psycopg.rows import tuple_row
from sqlalchemy.orm import Session

from orchestrator.context import Effect, Movement, NothingThere, StepContext
from orchestrator.entries import Direction
from orchestrator.errors import OutcomeUnknown, Retriable, Terminal
from orchestrator.keys import forward_key, installation_of, undo_key
from orchestrator.outcomes import is_contention, told
from orchestrator.storage.database import Row

LocalConnection = sqlalchemy.Connection | Session | psycopg.Connection[Any]
"""A connection to the participant's database, with the participant's transaction on it."""

MAX_GENERATION = 1000
"""A generation needs a fact in the log each; so many are a mistake."""

_TABLE = (
    "CREATE SCHEMA IF NOT EXISTS amends",
    """CREATE TABLE IF NOT EXISTS amends.barrier (
    key text PRIMARY KEY,
    saga_key text NOT NULL,
    state text NOT NULL CHECK (state IN ('done', 'undone', 'closed')),
    answer json,
    undo_generation int NOT NULL DEFAULT 0,
    undo_answer json,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp()
)""",
    "CREATE INDEX IF NOT EXISTS barrier_written_at ON amends.barrier (written_at)",
)

BARRIER_SQL = ";\n".join(_TABLE) + ";\n"
"""The table, for those who create it by hand. A participant needs SELECT, INSERT and UPDATE on it,
USAGE on its schema, and DELETE to prune."""

_ONE_AT_A_TIME = f"SELECT pg_advisory_xact_lock({0x62617272696572})"
"""Any constant ("barrier" in ASCII): CREATE ... IF NOT EXISTS is not safe against itself."""

_EXISTING = """
SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = 'amends' AND tablename = 'barrier'
"""
"""Not `to_regclass`: a session remembers what was not there, also while it waits for a lock."""

_INSERT = """
INSERT INTO amends.barrier (key, saga_key, state) VALUES (%(key)s, %(saga_key)s, %(state)s)
ON CONFLICT (key) DO NOTHING RETURNING key
"""

_READ = """
SELECT state, answer::text, undo_generation, undo_answer::text
FROM amends.barrier WHERE key = %(key)s FOR UPDATE
"""

_ACTED = "UPDATE amends.barrier SET answer = %(answer)s::json WHERE key = %(key)s"

_UNDONE = """
UPDATE amends.barrier SET state = 'undone', undo_generation = %(generation)s,
    undo_answer = %(answer)s::json, written_at = clock_timestamp()
WHERE key = %(key)s
"""

_PRUNE = """
WITH gone AS (
    DELETE FROM amends.barrier
    WHERE written_at < clock_timestamp() - make_interval(secs => %(age)s) RETURNING key
)
SELECT count(*) FROM gone
"""


def act(connection: LocalConnection, ctx: StepContext[Any], action: Callable[[], Any]) -> Effect:
    """Run `action` once for this step, however often it is tried, and return its first answer.

    Belongs into the participant's transaction, before any other statement of it; `action` writes in
    the same transaction. What is returned is for the step to return: the effect has the step's key
    as its reference where `action` named none. An exception of `action` undoes what it wrote.

    Args:
        action: returns a JSON-able value, a pydantic model or an `Effect`, as a step does.

    Raises:
        Terminal: decisive; this step was compensated, and the action had no effect.
        Retriable: another transaction was in the way; no effect, and no budget is spent.
        PayloadError: the answer is not JSON or larger than 64 kB; no effect.
        psycopg.Error: also wrapped by SQLAlchemy. No transaction is open (autocommit), or the
            database's own complaint.
    """
    _expect(ctx, Direction.FORWARD)
    *earlier, key = _keys(ctx)
    with _all_or_nothing(connection):
        for each in earlier:
            row = _closed(connection, ctx, each)
            if row.state is _State.DONE:
                return row.effect
        if not _insert(connection, ctx, key, _State.DONE):
            return _first_answer(_read(connection, key))
        answer = _answer(ctx, action(), reference=key)
        _run(connection, _ACTED, {"key": key, "answer": answer})
        return _effect(answer)


def undo(
    connection: LocalConnection, ctx: StepContext[Any], undoing: Callable[[Effect], Any]
) -> Effect | NothingThere:
    """Run `undoing` once for the effect to undo and return its first answer; else close the door.

    Belongs into the participant's transaction, as `act` does. Of an effect that the barrier does
    not know, nothing is done: `NothingThere`, and whatever of the step arrives later is refused.
    Said of an effect that the log does know, that counts as a failed try.

    Args:
        undoing: gets what `act` answered; returns what a compensation returns.

    Raises:
        Terminal: the effect to undo is another one than the barrier's; nothing was done.
        Retriable, PayloadError, psycopg.Error: as `act`.
    """
    _expect(ctx, Direction.COMPENSATE)
    generation, keys = _undo_generation(ctx), _keys(ctx)
    with _all_or_nothing(connection):
        rows = [_closed(connection, ctx, key) for key in keys]
        row = _row_to_undo(ctx, [each for each in rows if each.state is not _State.CLOSED])
        if row is None:
            return NothingThere()
        if row.undo_generation >= generation:
            return _effect(row.undo_answer)
        answer = _answer(ctx, undoing(row.effect), reference=row.effect.reference)
        _run(connection, _UNDONE, {"key": row.key, "generation": generation, "answer": answer})
        return _effect(answer)


def create_barrier(connection: LocalConnection) -> None:
    """Create the table in the caller's transaction, unless it is there; safe by many at once."""
    with _all_or_nothing(connection):
        _run(connection, _ONE_AT_A_TIME, {})
        if _run(connection, _EXISTING, {}):
            return
        for statement in _TABLE:
            _run(connection, statement, {})


def prune(connection: LocalConnection, older_than: timedelta) -> int:
    """Delete rows that nothing was written to for so long, in the caller's transaction; how many.

    A row that is gone protects no more: a repeated action acts anew, and a compensation finds
    nothing. So `older_than` is at least the ``key_life`` that the steps declare (past half of which
    the engine repeats nothing), and longer than any saga may be parked or be taken back after.
    """
    found: int = _run(connection, _PRUNE, {"age": older_than.total_seconds()})[0][0]
    return found


class _State(StrEnum):
    """What became of an action."""

    DONE = "done"
    UNDONE = "undone"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fate:
    """A row: what became of the action of that key, and the answers that were given."""

    key: str
    state: _State
    answer: str | None = None
    undo_generation: int = 0
    undo_answer: str | None = None

    @property
    def effect(self) -> Effect:
        return _effect(self.answer)


def _expect(ctx: StepContext[Any], direction: Direction) -> None:
    if ctx.direction != direction:
        raise ValueError(f"`act` is for steps, `undo` for compensations; this is {ctx.direction}")


def _keys(ctx: StepContext[Any]) -> list[str]:
    """The step's keys of every generation up to the one in use, in that order."""
    installation = installation_of(ctx.step_key)
    return _derived(
        ctx.step_key,
        lambda generation: forward_key(
            ctx.definition, ctx.saga_key, ctx.step, generation, installation=installation
        ),
    )


def _undo_generation(ctx: StepContext[Any]) -> int:
    """Which undoing this is: it rises when the one before proved undone.

    The undo key alone would not do: it differs between "whatever is there" and the same effect once
    the log has heard of it.
    """
    reference = None if ctx.effect is None else ctx.effect.reference
    keys = _derived(
        ctx.idempotency_key, lambda generation: undo_key(ctx.step_key, reference, generation)
    )
    return len(keys)


def _derived(wanted: str, key: Callable[[int], str]) -> list[str]:
    generations = range(1, MAX_GENERATION)
    before = list(takewhile(lambda each: each != wanted, map(key, generations)))
    if len(before) == len(generations):
        raise ValueError(f"{wanted!r} is no key of this step; see orchestrator.keys")
    return [*before, wanted]


def _row_to_undo(ctx: StepContext[Any], acted: list[_Fate]) -> _Fate | None:
    """Return the row of the effect that is to be undone, of those that are or were effects."""
    if ctx.effect is None or not acted:
        return acted[-1] if acted else None
    for each in reversed(acted):  # the last is the effect's own key
        if each.effect.reference == ctx.effect.reference:
            return each
    raise Terminal(
        f"the log knows the effect {ctx.effect.reference!r} of {ctx.step}, the barrier only "
        f"{acted[-1].effect.reference!r}; a step returns what `act` returned",
        code="another_effect",
    )


def _first_answer(row: _Fate) -> Effect:
    if row.state is _State.DONE:
        return row.effect
    raise Terminal(
        "compensated: this action may not act any more", code=row.state.value, decisive=True
    )


def _answer(ctx: StepContext[Any], returned: Any, *, reference: str | None) -> str:
    """What was returned, as it is kept: checked as the engine would check it after the commit."""
    effect = returned if isinstance(returned, Effect) else Effect(value=returned)
    fields = told(ctx.step, effect)
    return json.dumps(fields | {"reference": fields["reference"] or reference})


def _effect(answer: str | None) -> Effect:
    if answer is None:
        raise OutcomeUnknown(
            "an action committed inside the barrier, before it had answered: did it take effect?",
            code="no_answer",
        )
    fields = json.loads(answer)
    movements = [Movement(**each) for each in fields["movements"] or ()]
    return Effect(value=fields["result"], reference=fields["reference"], movements=movements)


def _closed(connection: LocalConnection, ctx: StepContext[Any], key: str) -> _Fate:
    """Close the door of a key, unless something became of it; return what."""
    if _insert(connection, ctx, key, _State.CLOSED):
        return _Fate(key=key, state=_State.CLOSED)
    return _read(connection, key)


def _insert(connection: LocalConnection, ctx: StepContext[Any], key: str, state: _State) -> bool:
    """Whether we are the first; waits for whoever inserts the same key in an open transaction."""
    values = {"key": key, "saga_key": ctx.saga_key, "state": state.value}
    return bool(_run(connection, _INSERT, values))


def _read(connection: LocalConnection, key: str) -> _Fate:
    rows = _run(connection, _READ, {"key": key})
    if not rows:
        raise Retriable("the barrier's row was pruned just now", spends_budget=False)
    state, answer, undo_generation, undo_answer = rows[0]
    return _Fate(
        key=key,
        state=_State(state),
        answer=answer,
        undo_generation=undo_generation,
        undo_answer=undo_answer,
    )


@contextmanager
def _all_or_nothing(connection: LocalConnection) -> Iterator[None]:
    """Leave nothing behind after an exception, even if the caller commits in spite of it.

    The savepoint is also what Postgres refuses outside a transaction: there, the row would be
    committed before the effect.
    """
    _run(connection, "SAVEPOINT amends_barrier", {})
    try:
        yield
        _run(connection, "RELEASE SAVEPOINT amends_barrier", {})
    except BaseException as error:
        with suppress(psycopg.Error, sqlalchemy.exc.SQLAlchemyError):
            _run(connection, "ROLLBACK TO SAVEPOINT amends_barrier", {})
        if is_contention(error):
            raise Retriable(
                "other transactions were in the way", code="contention", spends_budget=False
            ) from error
        raise


def _run(connection: LocalConnection, statement: str, values: Mapping[str, Any]) -> list[Row]:
    if isinstance(connection, psycopg.Connection):
        with connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(cast("Any", statement), values)
            return cursor.fetchall() if cursor.description else []
    lent = connection.connection() if isinstance(connection, Session) else connection
    result = lent.exec_driver_sql(statement, dict(values))
    return [tuple(row) for row in result] if result.returns_rows else []
