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

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import httpx2

_LARGEST_ANSWER_BYTES: Final = 16 * 2**20
_DIGITS: Final = 9  # of seconds: thirty years
_SHORTEST_PHASE_SECONDS: Final = 0.001  # httpcore2 reads zero as "do not block", not as "too late"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A complete answer. The names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def retry_after(self) -> timedelta | None:
        """When the other side asks to be called again; None where it does not say."""
        return pause_of(self.headers.get("retry-after", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """A call that ended without a complete answer; `reason` names the transport's error."""

    was_sent: bool
    reason: str


def pause_of(retry_after: str) -> timedelta | None:
    """The pause that a Retry-After header asks for in seconds; None for anything else.

    A date would be told by a clock that is not ours, and more digits mean no pause at all.
    """
    is_count = retry_after.isascii() and retry_after.isdecimal() and len(retry_after) <= _DIGITS
    return timedelta(seconds=int(retry_after)) if is_count else None


class _TooLateError(Exception):
    """The deadline passed between two phases of a call."""


def checked_base_url(url: str) -> str:
    """Return where a gateway is, without a slash at the end.

    Raises:
        ValueError: it is no http(s) URL.
    """
    parsed = httpx2.URL(url)
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError(f"a gateway's URL is http(s)://host[:port], not {url!r}")
    return url.rstrip("/")


class HttpCalls:
    """Calls out; thread-safe, and each process has connections of its own.

    A connection must not be shared with a forked child, so clients are kept by process id and
    made on first use. A parent's client is never closed in the child: that could say goodbye on the
    parent's own connection. `longest` caps every call, however long it may take.
    """

    def __init__(self, *, longest: timedelta) -> None:
        self._longest_seconds = longest.total_seconds()
        self._clients: dict[int, httpx2.Client] = {}

    def send(
        self, method: str, url: str, *, timeout_seconds: float, **parts: Any
    ) -> Answered | Unanswered:
        """Send one request; `parts` are httpx2's (`headers`, `params`, `content`)."""
        seconds = min(timeout_seconds, self._longest_seconds)
        if seconds <= 0:
            return Unanswered(was_sent=False, reason="no time left for the call")
        client = self._client()
        call = _Call(time.monotonic() + seconds)
        request = client.build_request(
            method,
            url,
            timeout=httpx2.Timeout(seconds),
            extensions={"trace": call.trace},
            **parts,
        )
        call.timeouts = request.extensions["timeout"]
        try:
            return _read(client, request, call)
        except (httpx2.TransportError, httpx2.DecodingError, _TooLateError) as error:
            return Unanswered(was_sent=call.was_sent, reason=type(error).__name__)

    def close(self) -> None:
        """Close this process's connections; the next call opens new ones."""
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()

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


def _read(client: httpx2.Client, request: httpx2.Request, call: _Call) -> Answered:
    answer = client.send(request, stream=True)
    try:
        content = bytearray()
        for chunk in answer.iter_bytes():
            content += chunk
            if len(content) > _LARGEST_ANSWER_BYTES or call.seconds_left() <= 0:
                raise _TooLateError
    finally:
        answer.close()
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Answered(status=answer.status_code, headers=headers, content=bytes(content))


def _new_client() -> httpx2.Client:
    return httpx2.Client(
        follow_redirects=False,
        trust_env=False,  # no proxy out of the environment may see payments
        transport=httpx2.HTTPTransport(
            retries=0, limits=httpx2.Limits(max_connections=100, max_keepalive_connections=20)
        ),
    )
