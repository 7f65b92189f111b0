"""When the next try is due: back-off with jitter, as a pure function of what was recorded."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from orchestrator.definition import Retry
from orchestrator.entries import Direction, StepFailed, StepReleased, StepUnknown, StepWaiting
from orchestrator.entries import UnknownReason as Reason
from orchestrator.state import Track

MAX_RETRY_AFTER_SECONDS = 86_400.0
"""However long the other side asks to be left alone, it is asked again after a day."""


def backoff(retry: Retry, tries: int, *spread: object) -> timedelta:
    """Return the pause after `tries` tries: exponential, with full jitter that is a hash.

    The same saga, step and attempt always get the same pause, so a decision can be replayed.
    """
    doubled = retry.base.total_seconds() * 2.0 ** max(0, min(tries - 1, 60))
    ceiling = timedelta(seconds=min(doubled, retry.cap.total_seconds()))
    digest = hashlib.blake2b("/".join(map(str, spread)).encode(), digest_size=8).digest()
    return ceiling * (int.from_bytes(digest) / 2**64)


def not_before(
    track: Track, retry: Retry, seed: str, name: str, direction: Direction
) -> datetime | None:
    """When the next try is due: at once after a hand-back or a first crash, else after a pause."""
    if track.ended_at is None or isinstance(track.last, StepReleased | StepWaiting):
        return None
    spread = (seed, name, direction, track.attempts)
    match track.last:
        case StepFailed(retry_after_seconds=float() | int() as seconds):
            asked = timedelta(seconds=min(seconds, MAX_RETRY_AFTER_SECONDS))
            if track.last.is_exact:
                return track.ended_at + asked
            return track.ended_at + asked + backoff(retry, 1, *spread)
        case StepUnknown(reason=Reason.RAISED | Reason.TIMED_OUT):
            return track.ended_at + backoff(retry, track.unknowns, *spread)
        case StepUnknown(reason=Reason.DRAINED):
            return None
        case StepUnknown() | StepFailed(crashed=True):
            if track.crashes <= 1:
                return None
            return track.ended_at + backoff(retry, track.crashes, *spread)
        case StepFailed(spends_budget=False):
            return track.ended_at + backoff(retry, track.attempts, *spread)
        case StepFailed():
            return track.ended_at + backoff(retry, track.failures + track.unknowns, *spread)
        case _:
            return track.ended_at + backoff(retry, max(track.failures, 1), *spread)
