"""How big a scenario is: quick by default, and as large as it should be where there is time."""

from __future__ import annotations

import pytest

LONG_SECONDS = 1_800


def sizes(quick: object, full: object) -> pytest.MarkDecorator:
    """Parametrize a test by its size; `full` runs in ``make chaos`` only."""
    marks = (pytest.mark.long, pytest.mark.timeout(LONG_SECONDS))
    values = [pytest.param(quick, id="quick"), pytest.param(full, id="full", marks=marks)]
    return pytest.mark.parametrize("size", values)
