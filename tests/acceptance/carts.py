"""A saga of which one at a time is at work on a cart."""

from __future__ import annotations

from orchestrator.definition import Lock, SagaDefinition
from tests.outside_world import Job, doing


def cart(job: Job) -> str:
    return f"cart/{job.number}"


CART = SagaDefinition(
    name="cart",
    version=1,
    payload=Job,
    lock=Lock(on=cart),
    steps=[doing("add"), doing("pay"), doing("ship", pivot=True)],
)
