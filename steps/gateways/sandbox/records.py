"""What the sandbox keeps beside movements: answers by key, and requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steps.gateways.sandbox.movements import Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes back over the wire."""

    status: int
    body: dict[str, Any]
    replayed: bool = False
    retry_after_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAnswer:
    """The first answer to a key, and the fingerprint of the parameters it answered."""

    fingerprint: str
    kept_at: float
    answer: Answer


@dataclass(slots=True, kw_only=True)
class Received:
    """One request, from its arrival to its answer.

    `status` is None while it is open, and for ever where the connection was closed in place of an
    answer. `is_written` tells that the file knows of it.
    """

    id: int
    received_at: float
    operation: Operation
    key: str | None = None
    fingerprint: str | None = None
    order_reference: str | None = None
    reference: str | None = None
    attempt: int = 1
    answered_at: float | None = None
    status: int | None = None
    replayed: bool = False
    faults: tuple[str, ...] = ()
    is_written: bool = False
