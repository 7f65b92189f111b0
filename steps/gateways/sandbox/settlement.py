"""The file that a gateway sends about a day that is over: CSV, one line per movement of money."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from datetime import date
from typing import Final

from steps.gateways.sandbox import wire
from steps.gateways.sandbox.gateway import Gateway

COLUMNS: Final = (
    "seq",
    "at",
    "operation",
    "reference",
    "payment_reference",
    "order_reference",
    "amount_minor",
    "currency",
    "key",
)

_PAGE: Final = 5_000


async def lines(gateway: Gateway, day: date) -> AsyncIterator[str]:
    """The file, page by page, so that no day is too long for the memory."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    after = 0
    while moved := gateway.report(day, after=after, limit=_PAGE):
        writer.writerows(wire.movement_json(each) for each in moved)
        after = moved[-1].seq
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()
