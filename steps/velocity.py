"""How often somebody has tried to pay lately: attempts are counted, not payments."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol


class VelocityTracker(Protocol):
    """Keeps attempts by subject, and counts those of a window.

    Fail mode: a tracker that cannot count raises, and never answers with a guess. The rule then
    raises too, so the order goes to review and not through.
    """

    def record(
        self, subject: str, attempt_id: str, window: timedelta, *, up_to: int | None = None
    ) -> int:
        """Keep the attempt and return how many the subject made in the window that ends with it.

        At least 1, for the attempt itself counts. Recording it again changes nothing and returns
        the same number, whatever came later. Of two at the same time the later one sees both.
        An attempt exactly `window` old is out. It may stop counting at `up_to`: whoever only asks
        for more than a limit need not wait for a count of thousands.
        """
        ...
