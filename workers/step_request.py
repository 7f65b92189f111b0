"""A step's message as the worker takes it: what it says, without what Celery would do about it.

Celery lets a message choose its own time limit (a prefork parent then kills the child in the middle
of a step), its hour, and tasks that are sent after it. Our rings choose none of that; in a step's
message it is forged or a mistake, and stays unread.
"""

from __future__ import annotations

from typing import Any

from workers.redacted_request import RedactedRequest

_UNREAD = frozenset(
    {"timelimit", "eta", "expires", "callbacks", "errbacks", "chain", "chord", "group"}
)


class StepRequest(RedactedRequest):
    """Celery's request, for our step tasks, in every pool."""

    def __init__(
        self,
        message: Any,
        *,
        headers: Any = None,
        body: Any = None,
        decoded: bool = False,
        **options: Any,
    ) -> None:
        args, kwargs, _follow_ups = body if decoded else message.payload
        given = message.headers if headers is None else headers
        super().__init__(
            message,
            headers={name: each for name, each in given.items() if name not in _UNREAD},
            body=(args, kwargs, {}),  # for the pool, which would read the bytes once more
            decoded=True,
            **options,
        )
