"""What a checkout needs of a carrier: one shipment per key, and a way to ask about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ShipmentRequest:
    """Fetch the parcel of `order_reference` and bring it to `destination`."""

    order_reference: str
    destination: str = field(default="", repr=False)  # an address is personal


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipment:
    """A parcel the carrier has accepted."""

    reference: str
    order_reference: str
    tracking_number: str
    key: str
    created_at: datetime


class Carrier(Protocol):
    """The carrier as the steps see it; fails with the errors of `steps.gateways.errors`."""

    def create_shipment(
        self, request: ShipmentRequest, *, key: str, timeout_seconds: float
    ) -> Shipment:
        """Hand the parcel over; the same key again returns the same shipment.

        Raises:
            ShipmentRefusedError: the carrier will not take it; decisive for the key.
        """
        ...

    def find(
        self,
        *,
        reference: str | None = None,
        key: str | None = None,
        order_reference: str | None = None,
        timeout_seconds: float,
    ) -> Sequence[Shipment]:
        """The shipments that exactly one of the names identifies, oldest first; none is ()."""
        ...
