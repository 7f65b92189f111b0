"""A mistake: the same saga and version with other steps."""

from __future__ import annotations

from dataclasses import replace

from tests.chaos.sagas import NOOP as _AS_IT_WAS

CHANGED = replace(_AS_IT_WAS, steps=_AS_IT_WAS.steps[:1])
