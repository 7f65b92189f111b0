"""A call from its name to its value or its one error, through the engine's durable seam."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from orchestrator.seam import durable
from steps.gateways.arguments import checked_key
from steps.gateways.errors import PaymentError
from steps.gateways.http_calls import Unanswered
from steps.gateways.reading import UnreadableAnswerError
from steps.gateways.sandbox.classification import (
    Response,
    error_of,
    lookup_error_of,
    unreadable,
)
from steps.gateways.sandbox.transport import Transport

KEY_MAX_LENGTH: Final = 255

T = TypeVar("T")


def perform(
    name: str,
    transport: Transport,
    path: str,
    body: Mapping[str, object],
    *,
    key: str,
    timeout_seconds: float,
    read: Callable[[dict[str, Any]], T],
) -> T:
    """Ask for an effect under `key` and return what `read` makes of the answer.

    Raises:
        PaymentError: the call ended in any other way; see `classification`.
    """
    checked_key(key, longest=KEY_MAX_LENGTH)

    def action() -> T:
        ending = transport.post(path, body, key=key, timeout_seconds=timeout_seconds)
        return _value(ending, read, error_of)

    return durable(name, action)


def ask(
    name: str,
    transport: Transport,
    path: str,
    query: Mapping[str, str],
    *,
    timeout_seconds: float,
    read: Callable[[dict[str, Any]], T],
) -> T:
    """Ask a question and return what `read` makes of the answer; failures are retriable."""

    def action() -> T:
        ending = transport.get(path, query, timeout_seconds=timeout_seconds)
        return _value(ending, read, lookup_error_of)

    return durable(name, action)


def _value(
    ending: Response | Unanswered,
    read: Callable[[dict[str, Any]], T],
    error_for: Callable[[Response | Unanswered], PaymentError],
) -> T:
    match ending:
        case Response(body=dict(body)) if ending.is_success:
            try:
                return read(body)
            except UnreadableAnswerError as error:
                raise error_for(unreadable(ending, error)) from error
        case _:
            raise error_for(ending)
