"""A worker that imports this hears a charge's answer however long it stood still meanwhile."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from steps import payment
from tests import hasty_checkouts

payment_calls: Any = payment
payment_calls.CALL = timedelta(minutes=2)

HASTY = replace(
    hasty_checkouts.HASTY,
    steps=[
        replace(each, timeout=timedelta(minutes=3)) if each.probe else each
        for each in hasty_checkouts.HASTY.steps
    ],
)
