"""A module that a prefork worker imports in a test: it prints the deaths of its children."""

from __future__ import annotations

import sys

from tests.sagas_for_workers import INLINE
from workers.children import on_child_death

__all__ = ["INLINE"]

on_child_death(lambda pid: print(f"died {pid}", file=sys.stderr, flush=True))
