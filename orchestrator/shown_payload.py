"""A payload as it may be shown: what its model does not print stays hidden."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from orchestrator.definition import SagaDefinition
from orchestrator.entries import Json

HIDDEN = "***"

_SECRETS: Final = {SecretStr, SecretBytes}

Models = Sequence[type[BaseModel]]


def shown(payload: Json, definition: SagaDefinition[Any] | None) -> Json:
    """Return the payload with every secret field hidden, of models within it too.

    Secret is a field declared with ``repr=False`` or as a secret type. Of a definition that is not
    known here nobody can tell, so every value is hidden but those of its search attributes, which
    the caller shows anyway.
    """
    if not isinstance(payload, dict):
        return HIDDEN
    models: Models = [] if definition is None else [definition.payload]
    return {
        name: _field(value, known)
        if (known := _declared(name, models)) or value is None
        else HIDDEN
        for name, value in payload.items()
    }


def _field(value: Json, declared: Sequence[FieldInfo]) -> Json:
    """The value of a field, as the models that may declare it want it shown."""
    types = {each for field in declared for each in _types_in(field.annotation)}
    if value is not None and (types & _SECRETS or not all(each.repr for each in declared)):
        return HIDDEN
    return _within(value, [each for each in types if issubclass(each, BaseModel)])


def _within(value: Json, models: Models) -> Json:
    match value:
        case dict():
            return {
                name: _field(each, known)
                if (known := _declared(name, models))
                else _within(each, models)  # a dict of models: its names are the caller's
                for name, each in value.items()
            }
        case list():
            return [_within(each, models) for each in value]
        case _:
            return value


def _declared(name: str, models: Models) -> list[FieldInfo]:
    return [
        field
        for each in models
        for known, field in each.model_fields.items()
        if name in (known, field.alias, field.serialization_alias)
    ]


def _types_in(annotation: Any) -> Iterator[type]:
    """The classes that an annotation is made of: all of a union, those in a list or a dict."""
    parts = get_args(annotation)
    if isinstance(annotation, type) and not parts:
        yield annotation
    for part in parts:
        yield from _types_in(part)
