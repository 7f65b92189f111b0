"""For endpoints of one's own: whether an event was delivered before.

Seen is not done: an event that is marked, and then lost in a crash before its processing, is lost
for good. `steps.webhooks.inbox.WebhookInbox` keeps the event itself, commits, and processes it
afterwards; its `Receipt.is_first` is the same answer.
"""

from __future__ import annotations

from typing import Final, Protocol

A_WEEK_SECONDS: Final = 7 * 24 * 60 * 60


class WebhookDedupStore(Protocol):
    """Remembers ids for a while, for all processes."""

    def mark_seen(self, event_id: str, ttl_seconds: int) -> bool:
        """Remember an id; False when it was remembered already. One step: two never both win."""
        ...


def is_first_delivery(
    event_id: str, store: WebhookDedupStore, *, ttl_seconds: int = A_WEEK_SECONDS
) -> bool:
    """Return whether `store` has not seen the event yet, and have it seen from now on.

    Raises:
        ValueError: the event has no id: all such would pass for one.
    """
    if not event_id:
        raise ValueError("an event without an id cannot be told from others")
    return store.mark_seen(event_id, ttl_seconds)
