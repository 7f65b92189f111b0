"""Errors as JSON: kept in a row, and raised again later as the class they were, with their data.

A class is looked for among the loaded subclasses of a family, never imported by a name that came
out of a table. An attribute comes back as the type that the class's ``__init__`` declares for the
parameter of that name, otherwise as plain JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from orchestrator.entries import Json
from orchestrator.errors import PayloadError
from orchestrator.instrumentation import emit
from orchestrator.outcomes import described
from orchestrator.payloads import MAX_BYTES, canonical, to_json
from orchestrator.redaction.text import card_data
from orchestrator.redaction.values import TOO_MANY, without_card_data


def as_json(value: Any) -> Json:
    """Return a value as JSON from which its declared type can be read back.

    Raises:
        PayloadError: it has no JSON form.
    """
    try:
        return to_json(to_jsonable_python(value, by_alias=False, round_trip=True))
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise PayloadError(f"{type(value).__name__} has no JSON form; convert it first") from error


def without_cards(value: Json) -> Json:
    """Return JSON as it may be stored: card numbers and security codes are masked.

    Raises:
        PayloadError: it holds some, and too many values to look at each.
    """
    if not card_data(json.dumps(value, ensure_ascii=False)):
        return value
    shown, places = without_card_data(value)
    if TOO_MANY.encode() in canonical(shown):
        raise PayloadError("card data among more values than can be looked at; return an id")
    emit("redaction.applied", places=places)
    return shown


def from_json(value: Json, kind: Any) -> Any:
    """Return what `as_json` was given, read as `kind`; plain JSON where that does not fit."""
    if kind in (Any, None, object):
        return value
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        return adapter.validate_json(canonical(value), by_alias=True, by_name=True)
    except (PydanticUserError, ValidationError, NameError):
        return value


def kept(error: BaseException) -> Json:
    """Return an error as JSON: its class, its message, and what of its data has a JSON form.

    Data of more than 64 kB is left out.
    """
    record = {"class": _name(type(error)), **described(error)}
    carried: dict[str, Json] = {
        "arguments": [_lenient(each, None) for each in error.args],
        "attributes": {
            name: value
            for name, each in vars(error).items()
            if (value := _lenient(each, _LOST)) is not _LOST
        },
    }
    return without_cards(record | carried if len(canonical(carried)) <= MAX_BYTES else record)


def rebuilt(record: Json, family: tuple[type[BaseException], ...]) -> BaseException | None:
    """Return the error that `kept` was given, or None when its class is not loaded in `family`."""
    kind = next((each for each in _loaded(family) if _name(each) == record["class"]), None)
    if kind is None:
        return None
    arguments = record.get("arguments", [record["message"]])
    error = kind.__new__(kind, *arguments)
    error.args = tuple(arguments)
    hints = _hints(kind)
    for name, value in record.get("attributes", {}).items():
        setattr(error, name, from_json(value, hints.get(name, Any)))
    return error


_LOST = object()


def _lenient(value: Any, otherwise: Any) -> Any:
    try:
        return as_json(value)
    except PayloadError:
        return otherwise


def _name(kind: type[BaseException]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _loaded(family: tuple[type[BaseException], ...]) -> Iterator[type[BaseException]]:
    for kind in family:
        yield kind
        yield from _loaded(tuple(kind.__subclasses__()))


def _hints(kind: type[BaseException]) -> dict[str, Any]:
    try:
        return get_type_hints(kind.__init__)
    except (NameError, TypeError):
        return {}
