"""Sagas walk through faults, and every end of theirs is judged by what truly happened outside."""

from __future__ import annotations

from tests.chaos.sizes import sizes
from tests.simulation.__main__ import walk_batch


@sizes(150, 6000)
def test_whatever_happens_outside_no_saga_ends_falsely(size: int) -> None:
    tally = walk_batch(seed=1, first=0, last=size)
    assert tally.faulted > size / 2
    first = tally.violations[0][1] if tally.violations else None
    assert first is None, "\n".join([str(first.violation), *first.log])


def test_a_walk_is_repeated_by_its_seed() -> None:
    assert walk_batch(seed=3, first=0, last=20) == walk_batch(seed=3, first=0, last=20)
