"""How long it takes until what a fault interrupted moves again, the queue's share apart.

At the moment when servers answer again, every attempt that is due, or held by somebody who may be
dead, is written down. It is *scheduled again* when it is claimed, gone, rung once more or replaced
by its next try; until then nothing but the engine holds it up. From there to its claim it waits in
a queue behind others, which is a matter of how many workers there are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import LogUnavailableError
from orchestrator.storage.database import Database
from tests.deployment import Deployment

LOOK_SECONDS = 0.25

INTERRUPTED = """
SELECT t.saga_id, t.step, t.direction, t.number, t.token, t.rung_count, t.owner
FROM amends.attempt t WHERE t.due_at <= clock_timestamp()
"""

IN_FLIGHT = "SELECT key FROM amends.saga WHERE due_at IS NOT NULL AND definition = 'checkout'"

Row = tuple[Any, ...]


@dataclass(slots=True, kw_only=True)
class Stall:
    """What one incident held up; seconds since servers answered again."""

    name: str
    interrupted: int = 0
    scheduled: list[float] = field(default_factory=list)
    claimed: list[float] = field(default_factory=list)
    left: int = 0


def in_flight(deployment: Deployment) -> set[str]:
    """The keys of the checkouts that have not ended; none while Postgres does not answer."""
    try:
        return {row[0] for row in Database(deployment.engine).run(IN_FLIGHT, {})}
    except LogUnavailableError:
        return set()


def watch(deployment: Deployment, name: str, seconds: float, living: set[int]) -> Stall:
    """Watch what is interrupted now until all of it moves, or for so many seconds.

    Args:
        living: processes that hold attempts rightly; what they run is not interrupted.
    """
    began = time.monotonic()
    before = _attempts(deployment)
    waiting = {
        name: row
        for name, row in before.items()
        if row[4] is None or int(str(row[6]).rpartition("/")[2]) not in living
    }
    stall = Stall(name=name, interrupted=len(waiting))
    unscheduled = set(waiting)
    while waiting and time.monotonic() - began < seconds:
        time.sleep(LOOK_SECONDS)
        now = _attempts(deployment)
        passed = time.monotonic() - began
        for each, row in list(waiting.items()):
            found = now.get(each)
            is_claimed = found is None or (found[4] is not None and found[4] != row[4])
            if each in unscheduled and (is_claimed or (found and found[5] > row[5])):
                unscheduled.discard(each)
                stall.scheduled.append(passed)
            if is_claimed:
                stall.claimed.append(passed)
                del waiting[each]
    stall.left = len(unscheduled)
    return stall


def _attempts(deployment: Deployment) -> Mapping[Row, Row]:
    while True:
        try:
            rows = Database(deployment.engine).run(INTERRUPTED, {})
        except LogUnavailableError:
            time.sleep(LOOK_SECONDS)
            continue
        return {tuple(row[:4]): tuple(row) for row in rows}
