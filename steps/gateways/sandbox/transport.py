"""Calls to the sandbox gateway: JSON both ways, the idempotency key in a header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from steps.gateways.http_calls import Answered, HttpCalls, Unanswered, checked_base_url
from steps.gateways.sandbox.classification import Response


class Transport:
    """Calls to the one gateway at `base_url`; thread-safe, and safe after a fork."""

    def __init__(self, base_url: str, *, longest: timedelta) -> None:
        self._base_url = checked_base_url(base_url)
        self._calls = HttpCalls(longest=longest)

    def post(
        self, path: str, body: Mapping[str, object], *, key: str, timeout_seconds: float
    ) -> Response | Unanswered:
        """Send one request with an effect under its idempotency key."""
        return self._call(
            "POST",
            path,
            timeout_seconds,
            content=json.dumps(body),
            headers={"idempotency-key": key, "content-type": "application/json"},
        )

    def get(
        self, path: str, query: Mapping[str, str], *, timeout_seconds: float
    ) -> Response | Unanswered:
        """Ask one question."""
        return self._call("GET", path, timeout_seconds, params=dict(query))

    def close(self) -> None:
        """Close this process's connections."""
        self._calls.close()

    def _call(
        self, method: str, path: str, timeout_seconds: float, **parts: Any
    ) -> Response | Unanswered:
        ending = self._calls.send(
            method, self._base_url + path, timeout_seconds=timeout_seconds, **parts
        )
        return _response(ending) if isinstance(ending, Answered) else ending


def _response(answer: Answered) -> Response:
    return Response(
        status=answer.status,
        body=_json_object(answer.content),
        is_replayed=answer.headers.get("idempotent-replayed") == "true",
        retry_after=answer.retry_after,
    )


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None
