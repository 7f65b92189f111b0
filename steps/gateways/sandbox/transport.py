"""One HTTP call with a hard end, and whether anything of it was ever sent.

A call has one deadline for everything: waiting for a connection, connecting, sending, reading.
httpcore2 takes a timeout per phase from the request's `timeout` extension and announces each phase
to the `trace` extension first; the trace shrinks the timeouts to what is left. The same trace
tells a call that failed before its first byte (no effect) from one that failed after (unknown),
whatever the exception is called. Nothing is retried or redirected here.

One gap is left: a peer that sends its *headers* byte by byte restarts the read timeout with each of
them. The attempt's own timeout ends that.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import httpx2

from steps.gateways.sandbox.classification import Response, Unanswered

_LARGEST_ANSWER_BYTES: Final = 16 * 2**20
_SHORTEST_PHASE_SECONDS: Final = 0.001  # httpcore2 reads zero as "do not block", not as "too late"


class _TooLateError(Exception):
    """The deadline passed between two phases of a call."""


class Transport:
    """Calls to one gateway; thread-safe, and each process has connections of its own.

    A connection must not be shared with a forked child, so clients are kept by process id and
    made on first use. A parent's client is never closed in the child: that could say goodbye on the
    parent's own connection.
    """

    def __init__(self, base_url: str, *, longest: timedelta) -> None:
        url = httpx2.URL(base_url)
        if url.scheme not in {"http", "https"} or not url.host:
            raise ValueError(f"a gateway's URL is http(s)://host[:port], not {base_url!r}")
        self._base_url = base_url.rstrip("/")
        self._longest_seconds = longest.total_seconds()
        self._clients: dict[int, httpx2.Client] = {}

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
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()

    def _call(
        self, method: str, path: str, timeout_seconds: float, **parts: Any
    ) -> Response | Unanswered:
        seconds = min(timeout_seconds, self._longest_seconds)
        if seconds <= 0:
            return Unanswered(was_sent=False, reason="no time left for the call")
        client = self._client()
        call = _Call(time.monotonic() + seconds)
        request = client.build_request(
            method,
            self._base_url + path,
            timeout=httpx2.Timeout(seconds),
            extensions={"trace": call.trace},
            **parts,
        )
        call.timeouts = request.extensions["timeout"]
        try:
            return self._read(client, request, call)
        except (httpx2.TransportError, _TooLateError) as error:
            return Unanswered(was_sent=call.was_sent, reason=type(error).__name__)

    def _read(self, client: httpx2.Client, request: httpx2.Request, call: _Call) -> Response:
        answer = client.send(request, stream=True)
        try:
            content = bytearray()
            for chunk in answer.iter_bytes():
                content += chunk
                if len(content) > _LARGEST_ANSWER_BYTES or call.seconds_left() <= 0:
                    raise _TooLateError
        finally:
            answer.close()
        return Response(
            status=answer.status_code,
            body=_json_object(bytes(content)),
            is_replayed=answer.headers.get("idempotent-replayed") == "true",
            retry_after=_retry_after(answer.headers.get("retry-after", "")),
        )

    def _client(self) -> httpx2.Client:
        pid = os.getpid()
        client = self._clients.get(pid)
        if client is None:
            mine = _new_client()
            client = self._clients.setdefault(pid, mine)  # another thread may have been first
            if client is not mine:
                mine.close()
        return client


class _Call:
    """The deadline of one call, and how far it came."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self.was_sent = False
        self.timeouts: dict[str, float] = {}

    def seconds_left(self) -> float:
        return self._deadline - time.monotonic()

    def trace(self, event: str, _details: Mapping[str, object]) -> None:
        """Called by httpcore2 before and after every phase; raising before a phase prevents it."""
        if not event.endswith(".started"):
            return
        left = self.seconds_left()
        if event.endswith("send_request_headers.started"):
            if left <= 0:
                raise _TooLateError
            self.was_sent = True
        for phase in self.timeouts:
            self.timeouts[phase] = max(left, _SHORTEST_PHASE_SECONDS)


def _new_client() -> httpx2.Client:
    return httpx2.Client(
        follow_redirects=False,
        trust_env=False,  # no proxy out of the environment may see payments
        transport=httpx2.HTTPTransport(
            retries=0, limits=httpx2.Limits(max_connections=100, max_keepalive_connections=20)
        ),
    )


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(content)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _retry_after(text: str) -> timedelta | None:
    return timedelta(seconds=int(text)) if text.isdecimal() else None
