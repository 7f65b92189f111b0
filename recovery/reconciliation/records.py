"""What is compared: movements of money, as the saga log and as a gateway's report tell of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self

from steps.gateways.payment import MovementKind, ReportLine, UnreadableLine
from steps.money import LARGEST_MINOR

MOVED: Final = "moved"
FAILED: Final = "failed"

_CURRENCY = re.compile(r"[A-Z]{3}")
_LONGEST_TEXT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionRecord:
    """One movement of money as one side tells of it; (kind, reference) is its name.

    `status`: moved, or what else came of it. What failed, was declined or blocked moved nothing,
    and is missed by nobody. `key`: the idempotency key of the request.
    """

    reference: str
    amount_minor: int
    currency: str
    at: datetime
    kind: str = "charge"
    status: str = MOVED
    payment_reference: str | None = None
    order_reference: str | None = None
    key: str | None = None

    @classmethod
    def of(cls, line: ReportLine) -> Self:
        """Return a line of a gateway's report; a refund that failed is a refund, failed."""
        is_failed = line.kind is MovementKind.REFUND_FAILED
        return cls(
            reference=line.reference,
            amount_minor=line.amount.minor,
            currency=line.amount.currency,
            at=line.at,
            kind=MovementKind.REFUND if is_failed else line.kind,
            status=FAILED if is_failed else MOVED,
            payment_reference=line.payment_reference,
            order_reference=line.order_reference,
            key=line.key,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidRow:
    """A row that says nothing that could be compared: why, and the row as it came, if it did.

    What is kept of `raw` is redacted.
    """

    why: str
    raw: str = field(default="", repr=False)


Row = TransactionRecord | InvalidRow


def row_of(line: ReportLine | UnreadableLine) -> Row:
    """Return a line of a gateway's report as a row."""
    if isinstance(line, UnreadableLine):
        return InvalidRow(why="it is not as the gateway promises", raw=line.raw)
    return TransactionRecord.of(line)


def as_told(record: TransactionRecord) -> str:
    """Return a record as one line for a person; its fields may be of any type."""
    told = (getattr(record, each) for each in record.__dataclass_fields__)
    try:
        return ",".join("" if each is None else str(each) for each in told)
    except Exception:  # noqa: BLE001 - a stranger's object; a bad row ends no run
        return "it cannot be printed"


def trouble_with(record: TransactionRecord) -> str | None:
    """Return why a record cannot be compared, or None; its fields may be of any type."""
    reference: Any = record.reference
    amount: Any = record.amount_minor
    currency: Any = record.currency
    at: Any = record.at
    others = (record.payment_reference, record.order_reference, record.key)
    if not isinstance(reference, str) or not reference.strip():
        return "no reference"
    if not all(map(_is_text, (reference, record.kind, record.status))):
        return "a text that cannot be printed, or is too long"
    if not all(each is None or _is_text(each) for each in others):
        return "a text that cannot be printed, or is too long"
    if type(amount) is not int or not 0 <= amount <= LARGEST_MINOR:
        return "the amount is no number of minor units"
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        return "no currency of three capital letters"
    if not isinstance(at, datetime) or at.tzinfo is None or not _is_of_our_time(at):
        return "no moment with a zone"
    return None


def _is_of_our_time(moment: datetime) -> bool:
    """Whether UTC has a name for it."""
    try:
        moment.astimezone(UTC)
    except OverflowError:
        return False
    return True


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_TEXT
