"""Reads gateways' JSON strictly: what is not as promised is no answer at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from steps.gateways.payment import UnreadableLine

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
            OSError,  # of a moment that the machine's clock has no room for
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


def each_line(
    lines: object, read: Callable[[Json], T], *, shown: Callable[[Any], object] = lambda line: line
) -> list[T | UnreadableLine]:
    """Read the lines of a report's page, each by itself; `shown` is what one may be shown by.

    Raises:
        TypeError: these are no lines.
    """
    if not isinstance(lines, list):
        raise TypeError("a list expected")
    return [_line(each, read, shown) for each in lines]


def _line(
    line: Any, read: Callable[[Json], T], shown: Callable[[Any], object]
) -> T | UnreadableLine:
    try:
        return promised(read)(line)
    except UnreadableAnswerError:
        raw = json.dumps(shown(line), ensure_ascii=False, default=str)
        return UnreadableLine(raw=raw)
