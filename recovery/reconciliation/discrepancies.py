"""What a comparison finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class DiscrepancyType(StrEnum):
    """How ledger and report differ."""

    MISSING_INTERNAL = "missing_internal"
    MISSING_GATEWAY = "missing_gateway"
    AMOUNT_MISMATCH = "amount_mismatch"
    STATUS_MISMATCH = "status_mismatch"
    CURRENCY_MISMATCH = "currency_mismatch"
    DUPLICATE_INTERNAL = "duplicate_internal"
    DUPLICATE_GATEWAY = "duplicate_gateway"
    INVALID_ROW = "invalid_row"


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrepancy:
    """One difference. None stands for what a side does not tell.

    Args:
        name: the movement's reference; of an invalid row, where it stands.
        side: of an invalid row, whose it is: internal or gateway.
        why: of an invalid row, what is wrong with it.
    """

    type: DiscrepancyType
    kind: str
    name: str
    side: str | None = None
    internal_minor: int | None = None
    internal_currency: str | None = None
    internal_status: str | None = None
    gateway_minor: int | None = None
    gateway_currency: str | None = None
    gateway_status: str | None = None
    payment_reference: str | None = None
    order_reference: str | None = None
    key: str | None = None
    saga_id: UUID | None = None
    step: str | None = None
    why: str | None = None
