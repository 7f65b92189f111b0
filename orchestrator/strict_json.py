"""Reads JSON that strangers send, and refuses what two readers would read in two ways."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.entries import Json
from orchestrator.errors import PayloadError
from orchestrator.payloads import to_json


def read_json_object(body: bytes) -> dict[str, Json]:
    """Return the JSON object that a body is, as the log could hold it.

    Raises:
        PayloadError: it is not UTF-8, no JSON, no object, names a field twice, has NaN, infinity,
            NUL or half a surrogate pair in it, or is nested too deep. No value is repeated.
    """
    return dict(to_json(parse_json_object(body)))


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body is, whatever the log could hold of it.

    Raises:
        PayloadError: it is not UTF-8, no JSON, no object, names a field twice, has NaN or infinity
            in it, or is nested too deep to be read. No value is repeated.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise PayloadError("the body is not UTF-8") from None
    try:
        parsed = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError:
        raise PayloadError("the body is nested too deep; flatten it") from None
    except ValueError:
        raise PayloadError("the body is no JSON") from None
    if not isinstance(parsed, dict):
        raise PayloadError("the body is no JSON object")
    return parsed


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(pairs)
    if len(named) != len(pairs):
        raise PayloadError("the body names a field twice")
    return named


def _no_number(_: str) -> None:
    raise PayloadError("NaN and infinity are not JSON; send a number or null")
