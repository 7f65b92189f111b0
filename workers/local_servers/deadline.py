"""Waiting on a server: look, pause a little, look again, until time is up."""

import time
from datetime import timedelta

_PAUSE_SECONDS = 0.01


class Deadline:
    """A moment on the monotonic clock by which something must have happened."""

    def __init__(self, patience: timedelta) -> None:
        self._until = time.monotonic() + patience.total_seconds()

    @property
    def remaining_seconds(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def pause(self) -> bool:
        """Wait one short interval; False, at once, when the time is up."""
        if self.remaining_seconds == 0:
            return False
        time.sleep(_PAUSE_SECONDS)
        return True
