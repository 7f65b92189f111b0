"""Who is told of movements, and what was delivered to them: kept in the ledger's file.

An endpoint remembers up to which movement it was told. That moves on in the same transaction that
writes the deliveries, so a killed sandbox neither skips an announcement nor makes it up twice.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from steps.gateways.sandbox.ledger import Ledger

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS endpoint (
    id INTEGER PRIMARY KEY,
    url TEXT NOT NULL,
    form TEXT NOT NULL,
    secrets TEXT NOT NULL,
    told_seq INTEGER NOT NULL,
    UNIQUE (url, form)
);
CREATE TABLE IF NOT EXISTS delivery (
    id INTEGER PRIMARY KEY,
    endpoint_id INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at REAL,
    status INTEGER,
    delivered_at REAL
);
CREATE INDEX IF NOT EXISTS delivery_due ON delivery (next_at) WHERE next_at IS NOT NULL;
"""


class DeliveryKind(StrEnum):
    """Ours, or one of the two that somebody else might send."""

    TRUE = "true"
    FORGED = "forged"
    STALE = "stale"


class EndpointForm(StrEnum):
    """In whose words an endpoint is told."""

    SANDBOX = "sandbox"
    STRIPE = "stripe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where announcements go, in which form, signed with which secrets."""

    id: int
    url: str
    form: EndpointForm
    secrets: tuple[str, ...]
    told_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One announcement to one endpoint. `next_at` None: delivered, or given up."""

    id: int
    endpoint_id: int
    seq: int
    kind: DeliveryKind
    attempts: int
    next_at: float | None
    status: int | None
    delivered_at: float | None


class Deliveries:
    """Endpoints and deliveries. All calls come from one thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._db = ledger.database
        self._db.executescript(_SCHEMA)

    def register(self, url: str, form: EndpointForm, secrets: tuple[str, ...]) -> Endpoint:
        """Tell `url` of what moves from now on; registered before, only its secrets change."""
        with self._ledger.transaction():
            self._db.execute(
                "INSERT INTO endpoint (url, form, secrets, told_seq) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (url, form) DO UPDATE SET secrets = excluded.secrets",
                (url, form.value, json.dumps(secrets), self._ledger.last_seq),
            )
        return next(each for each in self.endpoints() if (each.url, each.form) == (url, form))

    def remove(self, endpoint_id: int) -> None:
        """Tell it nothing more, and drop what was still to be delivered."""
        with self._ledger.transaction():
            self._db.execute("DELETE FROM endpoint WHERE id = ?", (endpoint_id,))
            self._db.execute(
                "UPDATE delivery SET next_at = NULL WHERE endpoint_id = ?", (endpoint_id,)
            )

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                id=row["id"],
                url=row["url"],
                form=EndpointForm(row["form"]),
                secrets=tuple(json.loads(row["secrets"])),
                told_seq=row["told_seq"],
            )
            for row in self._db.execute("SELECT * FROM endpoint ORDER BY id")
        ]

    def told(self, endpoint: Endpoint, *, up_to: int) -> None:
        """Write inside the transaction that adds the deliveries."""
        self._db.execute("UPDATE endpoint SET told_seq = ? WHERE id = ?", (up_to, endpoint.id))

    def add(self, endpoint: Endpoint, seq: int, kind: DeliveryKind, *, at: float) -> None:
        self._db.execute(
            "INSERT INTO delivery (endpoint_id, seq, kind, next_at) VALUES (?, ?, ?, ?)",
            (endpoint.id, seq, kind.value, at),
        )

    def due(self, now: float, *, limit: int) -> list[Delivery]:
        rows = self._db.execute(
            "SELECT * FROM delivery WHERE next_at <= ? ORDER BY next_at, id LIMIT ?", (now, limit)
        )
        return [_delivery(row) for row in rows]

    def started(self, delivery: Delivery, *, until: float) -> None:
        """An attempt begins; if nothing is heard of it until then, it is due again."""
        with self._ledger.transaction():
            self._db.execute("UPDATE delivery SET next_at = ? WHERE id = ?", (until, delivery.id))

    def next_due_at(self) -> float | None:
        """When the next delivery is due; None where none is."""
        (at,) = self._db.execute("SELECT min(next_at) FROM delivery").fetchone()
        return None if at is None else float(at)

    def ended(
        self, delivery: Delivery, *, status: int | None, at: float, next_at: float | None
    ) -> None:
        """An attempt ended with an HTTP status, or with none; a `next_at` asks for another.

        There is no other for an endpoint that was removed meanwhile.
        """
        delivered_at = at if status is not None and 200 <= status < 300 else None  # noqa: PLR2004
        with self._ledger.transaction():
            self._db.execute(
                "UPDATE delivery SET attempts = attempts + 1, status = ?, delivered_at = ?, "
                "next_at = CASE WHEN endpoint_id IN (SELECT id FROM endpoint) THEN ? END "
                "WHERE id = ?",
                (status, delivered_at, next_at, delivery.id),
            )

    def after(self, delivery_id: int, limit: int) -> list[Delivery]:
        rows = self._db.execute(
            "SELECT * FROM delivery WHERE id > ? ORDER BY id LIMIT ?", (delivery_id, limit)
        )
        return [_delivery(row) for row in rows]


def _delivery(row: sqlite3.Row) -> Delivery:
    return Delivery(**{**dict(row), "kind": DeliveryKind(row["kind"])})
