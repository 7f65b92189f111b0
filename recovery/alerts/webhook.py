"""Alerts as webhooks, signed the way of https://www.standardwebhooks.com."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from uuid import UUID

import httpx2
from standardwebhooks import Webhook

from recovery.alerts.sinks import SEND_SECONDS, NotSentError

CONNECT_SECONDS = 5.0


class WebhookSink:
    """Posts alerts to one URL.

    Each has a connection of its own, so nothing is shared with a forked child. Redirects are not
    followed, no proxy is taken from the environment, and the answer's body is not read.

    Args:
        secrets: ``whsec_…``; signed with each, so that one can replace another without a gap.
        answer_seconds: the longest wait for the answer to begin, once connected.
    """

    def __init__(
        self,
        url: str,
        secrets: Sequence[str],
        *,
        answer_seconds: float = SEND_SECONDS - CONNECT_SECONDS,
    ) -> None:
        self._url = url
        self._signers = [Webhook(each) for each in secrets]
        self._timeout = httpx2.Timeout(answer_seconds, connect=CONNECT_SECONDS)

    def send(self, alert_id: UUID, body: str) -> None:
        """Post `body`; only an answer of 200 to 299 means that it arrived."""
        headers = self._headers(str(alert_id), body)
        client = httpx2.Client(timeout=self._timeout, follow_redirects=False, trust_env=False)
        try:
            with (
                client,
                client.stream("POST", self._url, content=body.encode(), headers=headers) as answer,
            ):
                status = answer.status_code
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise NotSentError(f"the webhook was not taken: {type(error).__name__}") from error
        if not httpx2.codes.is_success(status):
            raise NotSentError(f"the webhook was answered with {status}")

    def _headers(self, alert_id: str, body: str) -> dict[str, str]:
        now = datetime.now(UTC)
        return {
            "content-type": "application/json",
            "user-agent": f"amends/{version('amends')}",
            "webhook-id": alert_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(each.sign(alert_id, now, body) for each in self._signers),
        }
