"""A gateway's day lies where its clocks say, and so does the hour around it."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from recovery.reconciliation.business_day import BusinessDay

HALF_AN_HOUR = timedelta(minutes=30)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("UTC", date(2025, 6, 1), 24),
        ("Europe/Berlin", date(2025, 3, 30), 23),
        ("Europe/Berlin", date(2025, 10, 26), 25),
        ("Africa/Cairo", date(2025, 4, 24), 24),  # ends when clocks go from 00:00 to 01:00
        ("Africa/Cairo", date(2025, 4, 25), 23),
        ("Africa/Cairo", date(2025, 10, 30), 25),  # its last hour is there twice
        ("America/Santiago", date(2025, 9, 6), 24),
        ("America/Havana", date(2025, 11, 2), 25),
    ],
)
def test_the_hour_around_a_day_is_an_hour_whatever_clocks_do_at_midnight(
    zone: str, day: date, hours: int
) -> None:
    found = BusinessDay.of(day, zone)

    assert found.end - found.start == timedelta(hours=hours)
    assert found.is_near(found.start - HALF_AN_HOUR)
    assert found.is_near(found.end + HALF_AN_HOUR)
    assert not found.is_near(found.start - 3 * HALF_AN_HOUR)
    assert not found.is_near(found.end + 3 * HALF_AN_HOUR)
    assert not found.holds(found.start - HALF_AN_HOUR)
    assert not found.holds(found.end)
