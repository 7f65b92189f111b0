"""Checkpoints of the fold: what a saga's log says up to a seq, so that nobody reads that again.

A checkpoint is a cache and never the truth. It is written by workers, now and then, beside the road
of an attempt. What was written by other rules, or cannot be read, or does not fit the entries after
it, is left alone, and the whole log is folded as if there were none.

`form()` names the rules: the sources that fold entries and say what a state is. Whoever changes one
of them changes the name, so old and new workers side by side keep a checkpoint each, and neither
believes or overwrites the other's.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.metadata import version
from types import ModuleType

from orchestrator import folding, state_codec
from orchestrator.entries import Json, Recorded
from orchestrator.state import FoldedSaga, StepState

EVERY = 50
"""So many entries after the last checkpoint a new one is worth its statement."""

KEPT_SIGNALS = 32
"""So many unread signals of a name a checkpoint holds; who needs the next one reads the log."""

_IMPORT = re.compile(r"^from (orchestrator[\w.]*) import", re.MULTILINE)


@cache
def form() -> str:
    """Name the rules by which this process folds and writes states."""
    digest = hashlib.blake2b(digest_size=12)
    for name, source in sorted(sources().items()):
        digest.update(f"{name}\n{source}\n".encode())
    digest.update(repr((EVERY, KEPT_SIGNALS)).encode())
    return digest.hexdigest()


def sources() -> dict[str, str]:
    """Return the modules that a state depends on, by name, with what tells them from others."""
    found: dict[str, str] = {}
    left: list[ModuleType] = [folding, state_codec]
    while left:
        module = left.pop()
        if module.__name__ not in found:
            found[module.__name__] = source = _source(module)
            left.extend(_module(each) for each in _IMPORT.findall(source))
    return found


def _source(module: ModuleType) -> str:
    try:
        return inspect.getsource(module)
    except OSError:  # installed without its sources
        return version("amends")


def _module(name: str) -> ModuleType:
    return sys.modules.get(name) or import_module(name)


def encoded(state: FoldedSaga, signals_kept: int = KEPT_SIGNALS) -> Json:
    """Return the state, without signals that nobody will read soon, as JSON."""
    signals = {
        name: heard.cut(_unread_from(state, name), signals_kept)
        for name, heard in state.signals.items()
    }
    return state_codec.encoded(replace(state, signals=signals))


def _unread_from(state: FoldedSaga, name: str) -> int:
    """The first signal of the name that a step which reads them has not read.

    A step that begins to read them later reads them from the first on, in the log.
    """
    reading = [step for step in state.steps.values() if name in step.signals_used]
    still = [step for step in reading if not _has_read_all_it_will(step)] or reading
    return min((step.signals_used[name] for step in still), default=0)


def _has_read_all_it_will(step: StepState) -> bool:
    return step.is_done and not step.undo.is_under_way and not step.is_open


def decoded(value: Json) -> FoldedSaga | None:
    """Return the state that `encoded` wrote, or None: it cannot be read."""
    try:
        return state_codec.decoded(value)
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def is_due(entries: Sequence[Recorded]) -> bool:
    """Whether so much had to be read that the next reader should be spared it."""
    return len(entries) > EVERY
