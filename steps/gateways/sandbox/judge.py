"""What the sandbox saw and did, and its back stage, for tests, benchmarks and the demo.

The ledger is the judge: a saga claims what it did, the movements say what happened. Nothing here
runs through the engine's durable seam or belongs to the gateway's own interface.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Self

import httpx2


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One movement. `effective` means that money, a hold or a parcel moved.

    `key` is empty where the gateway moved by itself (a refund that settled or failed).
    """

    seq: int
    at: datetime
    operation: str
    key: str
    reference: str | None
    payment_reference: str | None
    order_reference: str | None
    amount_minor: int
    currency: str
    effective: bool
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow:
    """One received request. `attempt` is which try of its key it is, from 1.

    `status` None with `is_open` False: the connection was closed in place of an answer, or the
    gateway itself died before it gave one (then `answered_at` is None too).
    """

    id: int
    received_at: datetime
    answered_at: datetime | None
    is_open: bool
    operation: str
    key: str | None
    fingerprint: str | None
    order_reference: str | None
    reference: str | None
    attempt: int
    status: int | None
    replayed: bool
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderTotals:
    """What the effective movements of one order add up to."""

    order_reference: str
    currency: str | None
    authorized_minor: int
    captured_minor: int
    refunded_minor: int
    voided_minor: int
    authorizations_count: int
    captures_count: int
    shipments_count: int
    open_holds_count: int

    @property
    def kept_minor(self) -> int:
        """What the payer has paid in the end."""
        return self.captured_minor - self.refunded_minor

    @property
    def is_clean(self) -> bool:
        """Nothing was kept and nothing is held: what a compensated saga must leave."""
        return self.kept_minor == 0 and self.open_holds_count == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRow:
    """One announcement to one endpoint, and how its last attempt ended.

    `kind` is true, or forged or stale: what somebody else might send. `is_open` is True while
    another attempt is to come.
    """

    id: int
    endpoint_id: int
    event_id: str
    kind: str
    attempts: int
    is_open: bool
    status: int | None
    delivered_at: datetime | None


class SandboxJudge:
    """Reads the ledger and scripts the faults of one sandbox over HTTP."""

    def __init__(self, base_url: str) -> None:
        self._http = httpx2.Client(base_url=base_url, timeout=30, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # Reading.

    def movements(self, *, since: int = 0) -> Iterator[LedgerRow]:
        """Every movement after the one numbered `since`, in order."""
        for row in self._pages("/sandbox/ledger", "movements", since):
            yield LedgerRow(**{**row, "at": datetime.fromisoformat(row["at"])})

    def effects(self, order_reference: str) -> list[LedgerRow]:
        """The effective movements of one order, in order. Reads the whole ledger."""
        return [
            row
            for row in self.movements()
            if row.effective and row.order_reference == order_reference
        ]

    def requests(self, *, since: int = 0) -> Iterator[RequestRow]:
        """Every request after the one numbered `since`, lookups included, as they arrived."""
        yield from map(_request_row, self._pages("/sandbox/requests", "requests", since))

    def open_requests(self) -> list[RequestRow]:
        """The requests that wait for their answer now."""
        rows = self._get("/sandbox/requests", {"open": "true"})["requests"]
        return [_request_row(row) for row in rows]

    def totals(self) -> Iterator[OrderTotals]:
        """Every order that had an effect, by its reference."""
        for row in self._pages("/sandbox/totals", "totals", ""):
            yield OrderTotals(**row)

    def totals_of(self, order_reference: str) -> OrderTotals | None:
        """One order's totals, or None where nothing of it ever had an effect."""
        rows = self._get("/sandbox/totals", {"order_reference": order_reference})["totals"]
        return OrderTotals(**rows[0]) if rows else None

    def last_seq(self) -> int:
        """The number of the newest movement; 0 for an empty ledger."""
        return int(self._get("/healthz", {})["last_seq"])

    def deliveries(self, *, since: int = 0) -> Iterator[DeliveryRow]:
        """Every delivery of a webhook after the one numbered `since`, as they were due."""
        for row in self._pages("/sandbox/deliveries", "deliveries", since):
            at = row["delivered_at"]
            yield DeliveryRow(**{**row, "delivered_at": at and datetime.fromisoformat(at)})

    def settlement_file(self, day: date) -> str:
        """The CSV report of a day that is over.

        Raises:
            RuntimeError: it is not over yet.
        """
        return _checked_text(self._http.get("/report.csv", params={"day": day.isoformat()}))

    # The back stage.

    def script(self, fault: str, *, times: int | None = 1, **options: object) -> int:
        """Put a fault in force and return its id.

        Options are the fields of `faults.FaultRule` (`delay_ms`, `rate`, `seed`, `lands`, …) and
        of its `match` (`operation`, `order_reference`, `reference`, `key`, `attempt`, `nth`).
        """
        names = ("operation", "order_reference", "reference", "key", "attempt", "nth")
        match = {name: options.pop(name) for name in names if name in options}
        rule = {"match": match, "fault": fault, "times": times, **options}
        return int(self._post("/sandbox/faults", json=rule)["id"])

    def faults(self) -> list[dict[str, Any]]:
        """The rules in force, with how often each was `seen` and `applied`."""
        faults: list[dict[str, Any]] = self._get("/sandbox/faults", {})["faults"]
        return faults

    def clear_faults(self) -> None:
        self._http.delete("/sandbox/faults").raise_for_status()

    def release(self, order_reference: str | None = None) -> int:
        """Let held requests go on, all or one order's, and return how many."""
        query = {} if order_reference is None else {"order_reference": order_reference}
        return int(self._post("/sandbox/release", params=query)["released_count"])

    def end_challenge(self, reference: str, *, passed: bool) -> None:
        """Play the payer in front of a 3-D Secure challenge."""
        self._post(f"/sandbox/challenges/{reference}/{'complete' if passed else 'fail'}")

    def expire_challenge(self, reference: str) -> None:
        """Let a 3-D Secure challenge lapse because the payer never came."""
        self._post(f"/sandbox/challenges/{reference}/expire")

    def end_refund(self, reference: str, *, failed: bool) -> None:
        """Let a pending refund settle or fail."""
        self._post(f"/sandbox/refunds/{reference}/{'fail' if failed else 'settle'}")

    def announce_to(self, url: str, *secrets: str, form: str = "sandbox") -> int:
        """Have `url` told of everything that moves from now on, and return the endpoint's id.

        `form` is sandbox or stripe. Two secrets sign while one is being replaced.
        """
        body = {"url": url, "secrets": secrets, "form": form}
        return int(self._post("/sandbox/endpoints", json=body)["id"])

    def stop_announcing(self, endpoint_id: int) -> None:
        """Tell an endpoint nothing more."""
        self._http.delete(f"/sandbox/endpoints/{endpoint_id}").raise_for_status()

    def advance_clock(self, seconds: int) -> None:
        """Move the gateway's clock on, past a key's or an authorization's life."""
        self._post("/sandbox/clock", params={"advance_seconds": str(seconds)})

    def _pages(self, path: str, name: str, after: int | str) -> Iterator[dict[str, Any]]:
        position: int | str | None = after
        while position is not None:
            page = self._get(path, {"after": str(position), "limit": "5000"})
            yield from page[name]
            position = page["next"]

    def _get(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        return _checked(self._http.get(path, params=dict(query)))

    def _post(self, path: str, **parts: Any) -> dict[str, Any]:
        return _checked(self._http.post(path, **parts))


def _checked(response: httpx2.Response) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(_checked_text(response))
    return body


def _checked_text(response: httpx2.Response) -> str:
    if response.is_error:
        raise RuntimeError(f"the sandbox refused {response.request.url}: {response.text[:500]}")
    return response.text


def _request_row(row: dict[str, Any]) -> RequestRow:
    answered_at = row["answered_at"]
    return RequestRow(
        **{
            **row,
            "received_at": datetime.fromisoformat(row["received_at"]),
            "answered_at": answered_at and datetime.fromisoformat(answered_at),
            "faults": tuple(row["faults"]),
        }
    )
