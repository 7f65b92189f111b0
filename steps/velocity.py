"""How often somebody has tried to pay lately: attempts are counted, not payments."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol


class VelocityTracker(Protocol):
    """Keeps attempts by subject, and counts those of a window.

    Fail mode: a tracker that cannot count raises, and never answers with a guess. The rule then
    raises too, so the order goes to review and not through.
    """

    def record(self, subject: str, attempt_id: str, window: timedelta) -> int:
        """Keep the attempt and return how many the subject made in the window that ends with it.

        At least 1, for the attempt itself counts. Recording it again changes nothing and returns
        the same number, whatever came later. Of two at the same time the later one sees both.
        An attempt exactly `window` old is out.
        """
        ...
