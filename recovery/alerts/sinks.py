"""Where alerts go: what every sink promises, and which ones the settings ask for."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from workers.settings import Settings

SEND_SECONDS = 15.0
"""The longest one sending may take; well below an alert's first pause."""


class NotSentError(Exception):
    """An alert did not arrive, as far as can be told; it is sent again later."""


class Sink(Protocol):
    """Takes alerts out of the system."""

    def send(self, alert_id: UUID, body: str) -> None:
        """Return once `body`, a JSON object, has arrived.

        It may have arrived before: `alert_id` is the same every time.

        Raises:
            NotSentError: it may not have arrived; the message says why, without any secret.
        """


def sinks_of(settings: Settings) -> list[Sink]:
    """Return the sinks that are set; with none, alerts are rows and log lines."""
    chosen: list[Sink] = []
    if settings.alert_url is not None and settings.alert_secret is not None:
        from recovery.alerts.webhook import WebhookSink  # noqa: PLC0415 - an HTTP library

        chosen.append(WebhookSink(settings.alert_url, settings.alert_secret.split()))
    if settings.alert_command:
        from recovery.alerts.command import CommandSink  # noqa: PLC0415 - seldom needed

        chosen.append(CommandSink(settings.alert_command))
    return chosen
