"""A time zone in which the day has just ended, so that a day of minutes can be reconciled.

Only days that are over are reconciled, by the database's clock. Nobody's clock is moved for the
demo: the gateway's business zone is one whose midnight is the moment that is asked for.
"""

from __future__ import annotations

import os
import struct
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Final

ZONE: Final = "Demo/DayThatEnds"

_HALF_A_DAY: Final = 43_200
_DAY: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedDay:
    """The day that ended, and the path by which Python finds the zone `ZONE`."""

    day: date
    zones: str


def ending_at(midnight: datetime, directory: Path) -> EndedDay:
    """Write the zone whose day ends at `midnight`, a whole second, below `directory`."""
    offset = -int(midnight.timestamp()) % _DAY
    if offset > _HALF_A_DAY:
        offset -= _DAY
    path = directory / ZONE
    path.parent.mkdir(parents=True, exist_ok=True)
    # RFC 8536, version 1: a header, one local time type and its name.
    header = struct.pack(">4sc15x6l", b"TZif", b"\0", 0, 0, 0, 0, 1, 4)
    path.write_bytes(header + struct.pack(">lbB", offset, 0, 0) + b"DTE\0")
    there = timezone(timedelta(seconds=offset))
    return EndedDay(
        day=midnight.astimezone(there).date() - timedelta(days=1),
        zones=os.pathsep.join([str(directory), *zoneinfo.TZPATH]),
    )


def next_second(moment: datetime) -> datetime:
    """Return the first whole second after a moment."""
    return datetime.fromtimestamp(int(moment.timestamp()) + 1, UTC)
