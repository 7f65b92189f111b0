"""What simulated sagas look like: the checkout with its own steps, and random ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import cache
from random import Random
from typing import Any

from orchestrator.context import Effect, StepContext
from orchestrator.definition import Retry, SagaDefinition, Step, step
from steps.balanced_books import balanced_books
from steps.checkout import checkout
from steps.payload import CheckoutPayload
from tests.histories import Order
from tests.simulation.other_side import Deeds

QUICK = Retry(max_attempts=3, base=timedelta(milliseconds=100), cap=timedelta(seconds=10))
PATIENT = Retry(max_attempts=8, base=timedelta(seconds=1), cap=timedelta(minutes=2))
LAG = timedelta(seconds=30)
TIMEOUT = timedelta(seconds=20)
SHAPES = 200


def acting(
    name: str, *, named: bool = True, within: str | None = None, asks: bool = False, **options: Any
) -> Step:
    """A step that does a deed and takes it back; `asks`: whether that is settled by a probe."""

    def run(ctx: StepContext[Any]) -> Effect:
        taken = None if within is None else (ctx.results.get(within) or {}).get("deed")
        return ctx.resource(Deeds).act(ctx, named, options.get("lag", LAG), taken)

    def undo(ctx: StepContext[Any]) -> Any:
        return ctx.resource(Deeds).undo(ctx, options.get("lag", LAG), may_keep_failure=asks)

    def probe(ctx: StepContext[Any]) -> Any:
        return ctx.resource(Deeds).probe(ctx)

    def probe_undo(ctx: StepContext[Any]) -> Any:
        return ctx.resource(Deeds).probe_undo(ctx)

    known: dict[str, Any] = {"retry": QUICK, "undo_retry": PATIENT, "probe_retry": PATIENT}
    known |= {"timeout": TIMEOUT, "lag": LAG, "key_life": timedelta(hours=24), "probe": probe}
    if not {"pivot", "retriable", "no_compensation"} & set(options):
        known["compensation"] = undo
        if asks:
            known["undo_probe"] = probe_undo
    return step(name, run, **known, **options)


def reading(name: str, **options: Any) -> Step:
    """A step without any effect."""

    def run(_ctx: StepContext[Any]) -> dict[str, str]:
        return {"decision": "approve"}

    return step(name, run, read_only=True, retry=QUICK, **options)


@cache
def paying() -> SagaDefinition[CheckoutPayload]:
    """The checkout: its money steps are its own, stock and parcel are deeds."""
    return SagaDefinition(
        name="checkout",
        version=1,
        payload=CheckoutPayload,
        deadline=timedelta(minutes=30),
        closing=balanced_books,
        steps=[
            acting("reserve_inventory"),
            reading("screen_fraud"),
            checkout.step("authorize_payment"),
            checkout.step("capture_payment"),
            acting("create_shipment", pivot=True),
        ],
    )


@cache
def random_shape(number: int) -> SagaDefinition[Order]:
    """One of `SHAPES` sagas of one to six steps, linear or branching, half of them with a pivot."""
    rng = Random(number)  # noqa: S311 - it has to be repeatable
    count = rng.randint(1, 6)
    branching = rng.random() < 0.5
    pivot_at = rng.choice([None, rng.randrange(count)])
    steps: list[Step] = []
    for place in range(count):
        options: dict[str, Any] = {"named": rng.random() < 0.7, "asks": rng.random() < 0.5}
        if branching and place > 0:
            options["after"] = _after(rng, steps, place, pivot_at)
        if pivot_at is not None and place == pivot_at:
            options["pivot"] = True
        elif pivot_at is not None and place > pivot_at:
            options["retriable"] = True
        elif not branching and place > 0 and rng.random() < 0.4 and _can_be_within(steps[-1]):
            options["within"] = steps[-1].name
            steps[-1] = _undone_by(steps[-1], f"s{place}")
        steps.append(acting(f"s{place}", **options))
    return SagaDefinition(
        name="shop",
        version=1,
        payload=Order,
        deadline=rng.choice([None, None, timedelta(minutes=5)]),
        steps=steps,
    )


@cache
def sparing_shapes() -> list[int]:
    """Return which random shapes have a step that a later step's undo undoes too."""
    return [n for n in range(SHAPES) if any(e.undone_by for e in random_shape(n).steps)]


def _after(rng: Random, steps: list[Step], place: int, pivot_at: int | None) -> list[str]:
    names = [each.name for each in steps]
    if pivot_at is not None and place == pivot_at:
        return names
    if pivot_at is not None and place > pivot_at:
        return [rng.choice(names[pivot_at:])]
    return rng.sample(names, rng.randint(0, min(2, len(names))))


def _can_be_within(before: Step) -> bool:
    return before.compensation is not None


def _undone_by(before: Step, later: str) -> Step:
    return replace(before, undone_by=later)
