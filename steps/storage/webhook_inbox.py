"""Webhooks as rows: kept once, due until they are processed, claimed by one at a time.

A claim is a due time in the near future, so a claimer that dies gives the row back by doing
nothing. `tries` is the fence: who claimed a row writes only while nobody has claimed it since.
All times are the database's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from orchestrator.errors import LogUnavailableError
from orchestrator.outcomes import printable
from orchestrator.storage.database import Database, Moved

_BATCH: Final = 1_000
_MAX_NOTE: Final = 500

HAS_TABLE = "SELECT to_regclass('shop.webhook') IS NOT NULL"

KEEP = """
INSERT INTO shop.webhook (gateway, account, event_id, kind, body, signed_at)
VALUES (%(gateway)s, %(account)s, %(event_id)s, %(kind)s, %(body)s, %(signed_at)s)
ON CONFLICT (gateway, account, event_id) DO NOTHING
RETURNING id
"""

CLAIM = """
UPDATE shop.webhook w
SET due_at = clock_timestamp() + %(claim_for)s::interval, tries = w.tries + 1
WHERE w.id = (
    SELECT d.id FROM shop.webhook d
    WHERE d.processed_at IS NULL AND d.due_at <= (SELECT clock_timestamp())
    ORDER BY d.due_at, d.id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING w.id, w.gateway, w.account, w.event_id, w.kind, w.body, w.tries
"""

END = """
UPDATE shop.webhook SET processed_at = clock_timestamp(), due_at = NULL, outcome = %(outcome)s,
    note = %(note)s, saga_id = %(saga_id)s
WHERE id = %(id)s AND tries = %(tries)s AND processed_at IS NULL
RETURNING id
"""

# Older than the patience it is parked, and due still, though rarely.
PUT_OFF = """
UPDATE shop.webhook w SET note = %(note)s,
    parked_at = CASE WHEN too_old THEN coalesce(w.parked_at, clock_timestamp()) END,
    due_at = clock_timestamp()
        + CASE WHEN too_old THEN %(parked_pause)s::interval
            ELSE least(%(pause)s::interval,
                greatest(%(soon)s::interval, (clock_timestamp() - w.received_at) * %(share)s)) END
FROM (SELECT %(park)s OR received_at < clock_timestamp() - %(patience)s::interval AS too_old
    FROM shop.webhook WHERE id = %(id)s) AS age
WHERE w.id = %(id)s AND w.tries = %(tries)s AND w.processed_at IS NULL
RETURNING w.parked_at IS NOT NULL
"""

RETRY = """
UPDATE shop.webhook SET due_at = clock_timestamp(), parked_at = NULL
WHERE processed_at IS NULL AND (%(id)s::bigint IS NULL OR id = %(id)s)
RETURNING id
"""

DISMISS = """
UPDATE shop.webhook SET processed_at = clock_timestamp(), due_at = NULL, outcome = 'dismissed',
    note = %(note)s
WHERE id = %(id)s AND processed_at IS NULL
RETURNING id
"""

_SHOWN = (
    "id, gateway, account, event_id, kind, received_at, due_at, tries, parked_at, processed_at, "
    "outcome, note, saga_id"
)

FIND = f"""
SELECT {_SHOWN} FROM shop.webhook
WHERE %(processed_too)s OR processed_at IS NULL
ORDER BY id DESC LIMIT %(limit)s
"""

WAITING = """
SELECT count(*) FILTER (WHERE parked_at IS NULL), count(*) FILTER (WHERE parked_at IS NOT NULL)
FROM shop.webhook WHERE processed_at IS NULL
"""

PRUNE = """
DELETE FROM shop.webhook WHERE id IN (
    SELECT id FROM shop.webhook
    WHERE processed_at < (SELECT clock_timestamp()) - %(older_than)s::interval
    ORDER BY processed_at LIMIT %(limit)s)
RETURNING id
"""


class WebhookOutcome(StrEnum):
    """What came of a webhook that is processed."""

    TOLD = "told"
    NOTHING_NEW = "nothing_new"
    IGNORED = "ignored"
    DISMISSED = "dismissed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A verified webhook, as it is kept. `kind` is the gateway's own word for it."""

    gateway: str
    account: str
    event_id: str
    kind: str
    body: bytes
    signed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedWebhook:
    """A webhook that the caller may process now; `tries` counts this claim."""

    id: int
    gateway: str
    account: str
    event_id: str
    kind: str
    body: bytes
    tries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptWebhook:
    """A webhook as a line of a list, without what it said."""

    id: int
    gateway: str
    account: str
    event_id: str
    kind: str
    received_at: datetime
    due_at: datetime | None
    tries: int
    parked_at: datetime | None
    processed_at: datetime | None
    outcome: str | None
    note: str | None
    saga_id: UUID | None


class WebhookRows:
    """Keeps webhooks and hands them out."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_there = False

    def exist(self) -> bool:
        """Return whether the database has the table; some have the engine's schema only."""
        self._is_there = self._is_there or bool(self._database.run(HAS_TABLE, {})[0][0])
        return self._is_there

    def keep(self, delivery: Delivery) -> bool:
        """Commit a webhook, due at once; False when its event was kept before.

        Raises:
            LogUnavailableError: whether it is kept is not known; the sender has to repeat it.
        """
        values = {name: getattr(delivery, name) for name in Delivery.__dataclass_fields__}
        try:
            return bool(self._database.run(KEEP, values, writes="webhook.commit"))
        except Moved as error:  # the same event is being kept in a transaction that hangs
            raise LogUnavailableError("Postgres is too busy to keep a webhook") from error

    def claim(self, claim_for: timedelta) -> ClaimedWebhook | None:
        """Return the webhook that has been due longest, not due for others meanwhile; or None."""
        rows = self._database.run(CLAIM, {"claim_for": claim_for}, writes="webhook.claim")
        if not rows:
            return None
        return ClaimedWebhook(
            **dict(zip(ClaimedWebhook.__dataclass_fields__, rows[0], strict=True))
        )

    def end(
        self, claimed: ClaimedWebhook, outcome: WebhookOutcome, note: str, saga_id: UUID | None
    ) -> bool:
        """Write what came of it; False when somebody else has it by now."""
        values = {
            **_fence(claimed),
            "outcome": outcome.value,
            "note": _storable(note),
            "saga_id": saga_id,
        }
        return bool(self._database.run(END, values, writes="webhook.end"))

    def put_off(
        self,
        claimed: ClaimedWebhook,
        note: str,
        *,
        pause: timedelta,
        soon: timedelta,
        share_of_age: float,
        patience: timedelta,
        parked_pause: timedelta,
        park: bool,
    ) -> bool:
        """Have it due again after `pause`; parked, and due rarely, if it is older than `patience`.

        A pause above `soon` is no longer than this share of the webhook's age.

        Returns whether it is parked.
        """
        values = {
            **_fence(claimed),
            "note": _storable(note),
            "pause": pause,
            "soon": soon,
            "share": share_of_age,
            "patience": patience,
            "parked_pause": parked_pause,
            "park": park,
        }
        rows = self._database.run(PUT_OFF, values, writes="webhook.put_off")
        return bool(rows and rows[0][0])

    def find(self, *, processed_too: bool, limit: int) -> list[KeptWebhook]:
        """Return what waits or is parked, or everything, the newest first."""
        rows = self._database.run(FIND, {"processed_too": processed_too, "limit": limit})
        return [_kept(each) for each in rows]

    def counts(self) -> tuple[int, int]:
        """Return how many wait, and how many are parked."""
        [(waiting, parked)] = self._database.run(WAITING, {})
        return waiting, parked

    def retry(self, webhook_id: int | None) -> int:
        """Make one, or all that are not processed, due now; return how many these were."""
        return len(self._database.run(RETRY, {"id": webhook_id}, writes="webhook.retry"))

    def dismiss(self, webhook_id: int, note: str) -> bool:
        """Let one go unprocessed, for a reason; False when there is none that waits."""
        values = {"id": webhook_id, "note": _storable(note)}
        return bool(self._database.run(DISMISS, values, writes="webhook.dismiss"))

    def prune(self, older_than: timedelta) -> int:
        """Delete what was processed longer ago, and return how many; the unprocessed stay."""
        if not self.exist():
            return 0
        values = {"older_than": older_than, "limit": _BATCH}
        pruned = 0
        while rows := self._database.run(PRUNE, values, writes="webhook.prune"):
            pruned += len(rows)
        return pruned


def _fence(claimed: ClaimedWebhook) -> dict[str, Any]:
    return {"id": claimed.id, "tries": claimed.tries}


def _storable(note: str) -> str:
    """Words of a gateway, of an exception or of an operator, who may all write what they like."""
    return printable(note)[:_MAX_NOTE]


def _kept(row: Sequence[Any]) -> KeptWebhook:
    return KeptWebhook(**dict(zip(KeptWebhook.__dataclass_fields__, row, strict=True)))
