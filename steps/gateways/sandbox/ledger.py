"""The sandbox's durable truth: movements, kept answers and received requests in one SQLite file.

WAL with `synchronous = NORMAL`: a transaction that returned survives `kill -9` of this process (the
operating system has it); only a power cut could lose the last ones, and the sandbox does not
promise to survive those. Movements are append-only by trigger. All calls come from one thread.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from steps.gateways.sandbox.movements import Command, Movement, Operation
from steps.gateways.sandbox.records import Answer, KeptAnswer, Received

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS identity (prefix TEXT NOT NULL);

CREATE TABLE IF NOT EXISTS movement (
    seq INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    operation TEXT NOT NULL,
    key TEXT NOT NULL,
    reference TEXT,
    payment_reference TEXT,
    order_reference TEXT,
    amount_minor INTEGER NOT NULL,
    currency TEXT NOT NULL,
    effective INTEGER NOT NULL,
    answer TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS movement_payment ON movement (payment_reference);
CREATE INDEX IF NOT EXISTS movement_order ON movement (order_reference);
CREATE INDEX IF NOT EXISTS movement_key ON movement (key);
CREATE INDEX IF NOT EXISTS movement_reference ON movement (reference);
CREATE INDEX IF NOT EXISTS movement_at ON movement (at);
CREATE TRIGGER IF NOT EXISTS movement_no_update BEFORE UPDATE ON movement
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS movement_no_delete BEFORE DELETE ON movement
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TABLE IF NOT EXISTS kept_answer (
    key TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    kept_at REAL NOT NULL,
    status INTEGER NOT NULL,
    body TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS request (
    id INTEGER PRIMARY KEY,
    received_at REAL NOT NULL,
    answered_at REAL,
    operation TEXT NOT NULL,
    key TEXT,
    fingerprint TEXT,
    order_reference TEXT,
    reference TEXT,
    attempt INTEGER NOT NULL,
    status INTEGER,
    replayed INTEGER NOT NULL,
    faults TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS request_key ON request (key);
"""

_TOTALS: Final = """
SELECT order_reference,
       max(nullif(currency, '')) AS currency,
       sum(amount_minor * (operation = 'authorize')) AS authorized_minor,
       sum(amount_minor * (operation = 'capture')) AS captured_minor,
       sum(amount_minor * ((operation = 'refund') - (operation = 'refund_failed')))
           AS refunded_minor,
       sum(amount_minor * (operation = 'void')) AS voided_minor,
       sum(operation = 'authorize') AS authorizations_count,
       sum(operation = 'capture') AS captures_count,
       sum(operation = 'ship') AS shipments_count,
       sum(operation = 'authorize') - sum(operation IN ('capture', 'void')) AS open_holds_count
FROM movement
WHERE effective AND order_reference > ? AND (? IS NULL OR order_reference = ?)
GROUP BY order_reference ORDER BY order_reference LIMIT ?
"""

_LETTERS_FOR_DIGITS: Final = str.maketrans("0123456789", "ghijkmnpqr")
"""A reference must never look like a card number: its only digits are the eight of its serial."""


class Ledger:
    """The file. `transaction` is all-or-nothing and the only way to write."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA busy_timeout = 1000")
        self._db.executescript(_SCHEMA)
        self.on_commit: Callable[[], None] = lambda: None  # called after every transaction
        self.prefix = self._identity()
        self._last_seq = self._scalar("SELECT coalesce(max(seq), 0) FROM movement")

    @property
    def database(self) -> sqlite3.Connection:
        """For what lies beside the ledger; write inside `transaction` only."""
        return self._db

    @property
    def last_seq(self) -> int:
        """The highest `seq` in the ledger; 0 while it is empty."""
        return self._last_seq

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        seq_before = self._last_seq
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            self._last_seq = seq_before
            raise
        self.on_commit()

    def next_reference(self, kind: str) -> str:
        """A reference for the object that the next movement opens; unique across ledgers."""
        return f"{kind}_{self.prefix}{self._last_seq + 1:08d}"

    def seq_of(self, reference: str) -> int | None:
        """The movement that opened the object of this reference; None for any other text."""
        number = reference.rpartition(f"_{self.prefix}")[2]
        return int(number) if number.isdecimal() else None

    def append(
        self,
        command: Command,
        *,
        at: float,
        reference: str | None,
        payment_reference: str | None,
        order_reference: str | None,
        effective: bool,
        answer: str,
    ) -> Movement:
        movement = Movement(
            seq=self._last_seq + 1,
            at=at,
            operation=command.operation,
            key=command.key,
            reference=reference,
            payment_reference=payment_reference,
            order_reference=order_reference,
            amount_minor=command.amount_minor,
            currency=command.currency,
            effective=effective,
            answer=answer,
        )
        self._db.execute(
            "INSERT INTO movement VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                movement.seq,
                movement.at,
                movement.operation.value,
                movement.key,
                movement.reference,
                movement.payment_reference,
                movement.order_reference,
                movement.amount_minor,
                movement.currency,
                movement.effective,
                movement.answer,
            ),
        )
        self._last_seq = movement.seq
        return movement

    def movements_of(self, payment_reference: str) -> list[Movement]:
        return self._movements("payment_reference = ?", payment_reference)

    def movements_with(self, reference: str) -> list[Movement]:
        return self._movements("reference = ?", reference)

    def movements_under(self, *, key: str | None, order_reference: str | None) -> list[Movement]:
        if key is not None:
            return self._movements("key = ?", key)
        return self._movements("order_reference = ?", order_reference)

    def movements_after(self, seq: int, limit: int) -> list[Movement]:
        return self._movements("seq > ?", seq, limit=limit)

    def effects_between(
        self, start: float, end: float, *, after: int, limit: int
    ) -> list[Movement]:
        """Movements of money (not of parcels) in [start, end), by pages."""
        where = "at >= ? AND at < ? AND seq > ? AND effective AND operation <> 'ship'"
        return self._movements(where, start, end, after, limit=limit)

    def kept(self, key: str) -> KeptAnswer | None:
        row = self._db.execute("SELECT * FROM kept_answer WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        answer = Answer(status=row["status"], body=json.loads(row["body"]), replayed=True)
        return KeptAnswer(fingerprint=row["fingerprint"], kept_at=row["kept_at"], answer=answer)

    def keep(self, key: str, fingerprint: str, answer: Answer, *, at: float) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO kept_answer VALUES (?, ?, ?, ?, ?)",
            (key, fingerprint, at, answer.status, json.dumps(answer.body)),
        )

    def forget(self, key: str) -> None:
        self._db.execute("DELETE FROM kept_answer WHERE key = ?", (key,))

    def last_request_id(self) -> int:
        return self._scalar("SELECT coalesce(max(id), 0) FROM request")

    def attempts_of(self, key: str) -> int:
        """How many requests with `key` were written so far."""
        return self._scalar("SELECT count(*) FROM request WHERE key = ?", key)

    def write_request(self, received: Received) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO request VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                received.id,
                received.received_at,
                received.answered_at,
                received.operation.value,
                received.key,
                received.fingerprint,
                received.order_reference,
                received.reference,
                received.attempt,
                received.status,
                received.replayed,
                ",".join(received.faults),
            ),
        )

    def requests_after(self, request_id: int, limit: int) -> list[Received]:
        rows = self._db.execute(
            "SELECT * FROM request WHERE id > ? ORDER BY id LIMIT ?", (request_id, limit)
        )
        return [
            Received(
                id=row["id"],
                received_at=row["received_at"],
                answered_at=row["answered_at"],
                operation=Operation(row["operation"]),
                key=row["key"],
                fingerprint=row["fingerprint"],
                order_reference=row["order_reference"],
                reference=row["reference"],
                attempt=row["attempt"],
                status=row["status"],
                replayed=bool(row["replayed"]),
                faults=tuple(filter(None, row["faults"].split(","))),
                is_written=True,
            )
            for row in rows
        ]

    def totals_after(
        self, after: str, limit: int, *, order_reference: str | None
    ) -> list[dict[str, Any]]:
        rows = self._db.execute(_TOTALS, (after, order_reference, order_reference, limit))
        return [dict(row) for row in rows]

    def _movements(self, where: str, *values: object, limit: int = -1) -> list[Movement]:
        rows: Sequence[sqlite3.Row] = self._db.execute(
            f"SELECT * FROM movement WHERE {where} ORDER BY seq LIMIT ?",  # noqa: S608 - fixed texts
            (*values, limit),
        ).fetchall()
        return [movement_of(row) for row in rows]

    def _scalar(self, query: str, *values: object) -> int:
        return int(self._db.execute(query, values).fetchone()[0])

    def _identity(self) -> str:
        row = self._db.execute("SELECT prefix FROM identity").fetchone()
        if row is not None:
            return str(row["prefix"])
        prefix = uuid.uuid4().hex[:6].translate(_LETTERS_FOR_DIGITS)
        self._db.execute("INSERT INTO identity VALUES (?)", (prefix,))
        return prefix


def movement_of(row: sqlite3.Row) -> Movement:
    """A row of the ledger as a value."""
    return Movement(
        seq=row["seq"],
        at=row["at"],
        operation=Operation(row["operation"]),
        key=row["key"],
        reference=row["reference"],
        payment_reference=row["payment_reference"],
        order_reference=row["order_reference"],
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        effective=bool(row["effective"]),
        answer=row["answer"],
    )
