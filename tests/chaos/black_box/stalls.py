"""How long it takes until what a fault interrupted moves again, the queue's share apart.

At the moment when servers answer again, every attempt that is due, or held by somebody who may be
dead, is written down. It is *scheduled again* when it is rung once more or replaced by its next
try; until then nothing but the engine holds it up. From there to its claim it waits in a queue
behind others, which is a matter of how many workers there are. So does an attempt whose message was
not lost: it is only *queued*.
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
    """What one incident held up; seconds since servers answered again.

    Args:
        scheduled: until what was interrupted was scheduled again.
        queued: until what merely waited was claimed.
        left: attempts that were neither while they were watched.
    """

    name: str
    scheduled: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    left: int = 0


def in_flight(deployment: Deployment) -> set[str]:
    """The keys of the checkouts that have not ended; none while Postgres does not answer."""
    try:
        return {row[0] for row in Database(deployment.engine).run(IN_FLIGHT, {})}
    except LogUnavailableError:
        return set()


def watch(
    deployment: Deployment, name: str, seconds: float, living: set[int], *, lost_messages: bool
) -> Stall:
    """Watch what waits or is interrupted now until all of it moves, or for so many seconds.

    Args:
        living: processes that hold attempts rightly; what they run is not interrupted.
        lost_messages: the broker lost what it had, so that whatever waits is interrupted.
    """
    began = time.monotonic()
    watched = {
        each: row
        for each, row in _attempts(deployment).items()
        if row[4] is None or int(str(row[6]).rpartition("/")[2]) not in living
    }
    stall = Stall(name=name)
    while watched and time.monotonic() - began < seconds:
        time.sleep(LOOK_SECONDS)
        now = _attempts(deployment)
        passed = time.monotonic() - began
        for each, before in list(watched.items()):
            found = now.get(each)
            was_held = before[4] is not None
            is_rung_again = found is not None and found[5] > before[5]
            if found is not None and found[4] == before[4] and not is_rung_again:
                continue
            del watched[each]
            if was_held or is_rung_again or lost_messages:
                stall.scheduled.append(passed)
            else:
                stall.queued.append(passed)
    stall.left = len(watched)
    return stall


def _attempts(deployment: Deployment) -> Mapping[Row, Row]:
    while True:
        try:
            rows = Database(deployment.engine).run(INTERRUPTED, {})
        except LogUnavailableError:
            time.sleep(LOOK_SECONDS)
            continue
        return {tuple(row[:4]): tuple(row) for row in rows}
