"""Reads gateways' JSON strictly: what is not as promised is no answer at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

T = TypeVar("T")
Json = Mapping[str, Any]


class UnreadableAnswerError(Exception):
    """The gateway's answer has not the promised shape."""


def promised(read: Callable[[Json], T]) -> Callable[[Json], T]:
    """A reader whose every mishap is an `UnreadableAnswerError` that repeats nothing it read."""

    @wraps(read)
    def checked(body: Json) -> T:
        try:
            return read(body)
        except (
            AttributeError,
            IndexError,
            KeyError,
            OverflowError,
            TypeError,
            ValueError,
        ) as error:
            raise UnreadableAnswerError(f"{read.__name__}: {type(error).__name__}") from error

    return checked


def text(value: object) -> str:
    """A JSON string, and nothing else."""
    if not isinstance(value, str):
        raise TypeError("text expected")
    return value
