"""A semantic lock under many starters and dying workers: one saga at a time, in order, all end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from orchestrator.entries import SagaLockGranted, StepStarted
from orchestrator.state import State
from orchestrator.storage.histories import SagaHistory
from tests.acceptance.carts import CART
from tests.chaos.sizes import sizes
from tests.deployment import Deployment, measured
from tests.outside_world import World
from tests.worker_processes import until

STARTERS = 8
CARTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    each: int
    kills: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """When one saga was at work on its cart, and who started it as which of its own."""

    cart: str
    began: datetime
    ended: datetime
    starter: str
    place: int


def turns(histories: Sequence[SagaHistory]) -> dict[str, list[Turn]]:
    """The turns at each cart, in the order in which they began."""
    found: dict[str, list[Turn]] = {}
    for saga in histories:
        starter, place = saga.key.split("-")
        begun = (e.at for e in saga.entries if isinstance(e.entry, SagaLockGranted | StepStarted))
        turn = Turn(
            cart=f"cart/{int(place) % CARTS}",
            began=next(begun),
            ended=saga.entries[-1].at,
            starter=starter,
            place=int(place),
        )
        found.setdefault(turn.cart, []).append(turn)
    return {cart: sorted(each, key=lambda turn: turn.began) for cart, each in found.items()}


def overlaps(at_carts: dict[str, list[Turn]]) -> list[tuple[Turn, Turn]]:
    return [
        (one, other)
        for each in at_carts.values()
        for one, other in pairwise(each)
        if other.began < one.ended
    ]


def run(deployment: Deployment, module: str, size: Size) -> None:
    """Have all of them started while workers die, and wait for the last end."""
    deployment.definitions.append(CART)
    deployment.variables["sagas"] = module
    workers = deployment.start_workers(3)
    names = [str(STARTERS), "cart", str(size.each), str(CARTS)]
    starters = deployment.start("starters", ["-m", "tests.acceptance.starts_sagas", *names])
    total = STARTERS * size.each
    for number in range(size.kills):
        wanted = total * (number + 1) // (size.kills + 2)
        until(lambda: deployment.ended() >= wanted, seconds=120, what=f"{wanted} ends")  # noqa: B023 - at once
        workers.pop(0).kill()
        workers.append(deployment.start_worker(is_ready=False))
        deployment.execute(
            "UPDATE amends.attempt SET ring_at = clock_timestamp() WHERE token IS NULL"
        )
    assert starters.wait_end(120) == 0, starters.log
    until(lambda: deployment.ended() == total, seconds=200, what=f"{total} ends")


@sizes(Size(each=10, kills=1), Size(each=60, kills=5))
def test_of_many_sagas_one_is_at_work_on_each_cart_and_all_have_their_turn(
    deployment: Deployment, world: World, size: Size
) -> None:
    run(deployment, "tests.acceptance.carts", size)

    at_carts = turns(deployment.histories())
    lengths = [len(each) for each in at_carts.values()]
    measured(f"{sum(lengths)} sagas at {len(lengths)} carts, {size.kills} workers killed")
    assert overlaps(at_carts) == []
    for each in at_carts.values():
        for starter in {turn.starter for turn in each}:
            places = [turn.place for turn in each if turn.starter == starter]
            assert places == sorted(places)
    ends = Counter({State.COMPLETED: STARTERS * size.each})
    assert deployment.counts() == ends
    assert deployment.violations(ends) == []
    assert world.violations(CART) == []


def test_without_the_lock_the_overlap_is_noticed(deployment: Deployment, world: World) -> None:
    run(deployment, "tests.acceptance.unlocked", Size(each=10, kills=0))

    assert overlaps(turns(deployment.histories())) != []
