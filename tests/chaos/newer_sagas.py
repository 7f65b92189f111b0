"""What a later deploy brings: the same saga with one step more and a new version."""

from __future__ import annotations

from dataclasses import replace

from tests.chaos.sagas import NOOP as OLDER
from tests.chaos.sagas import Nothing

__all__ = ["NEWER", "OLDER", "Nothing"]

NEWER = replace(OLDER, version=2, steps=[*OLDER.steps, replace(OLDER.step("second"), name="third")])
