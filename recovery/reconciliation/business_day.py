"""A gateway's day, and the hour around it that is looked at too."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Self
from zoneinfo import ZoneInfo

MARGIN: Final = timedelta(hours=1)
"""How far the two sides' clocks and records of one movement may lie apart around midnight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessDay:
    """From `start` up to `end`, both UTC; 23 or 25 hours long where clocks are changed."""

    day: date
    start: datetime
    end: datetime
    margin: timedelta = MARGIN

    @classmethod
    def of(cls, day: date, zone: str) -> Self:
        """Return the day in an IANA zone.

        In UTC: an hour after a midnight at which clocks are changed would else be none.
        """
        there = ZoneInfo(zone)
        next_day = day + timedelta(days=1)
        return cls(
            day=day,
            start=datetime.combine(day, time(), there).astimezone(UTC),
            end=datetime.combine(next_day, time(), there).astimezone(UTC),
        )

    def holds(self, moment: datetime) -> bool:
        """Whether the moment belongs to this day."""
        return self.start <= moment < self.end

    def is_near(self, moment: datetime) -> bool:
        """Whether it belongs to the day or lies within the margin around it."""
        return self.start - self.margin <= moment < self.end + self.margin
