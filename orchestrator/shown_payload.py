"""A payload as it may be shown: what its model does not print stays hidden."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from pydantic import BaseModel, RootModel, Secret, SecretBytes, SecretStr

from orchestrator.definition import SagaDefinition
from orchestrator.entries import Json
from orchestrator.payloads import read_back

HIDDEN = "***"

_SECRET: Final = SecretStr("")
"""Stands for the value of a field that is not printed."""


def shown(payload: Json, definition: SagaDefinition[Any] | None) -> Json:
    """Return the payload with every secret field hidden, of models and dataclasses within it too.

    Secret is a field declared with ``repr=False`` or as a secret type. Where nobody can tell, for
    the definition is not known here or does not read the payload, every value is hidden; those of
    its search attributes the caller shows anyway.
    """
    if not isinstance(payload, dict):
        return HIDDEN
    model = None
    if definition is not None:
        with suppress(Exception):  # ours, or of a validator of the model's
            model = read_back(definition, payload)
    return _fields(payload, _parts(model))


def _fields(value: Mapping[str, Json], parts: Mapping[str, Any]) -> Json:
    return {name: _seen(each, parts.get(name, _SECRET)) for name, each in value.items()}


def _seen(value: Json, meant: Any) -> Json:
    """Return JSON as it may be shown, beside what its model made of it."""
    if value is None:
        return None
    if isinstance(meant, Secret | SecretStr | SecretBytes):
        return HIDDEN
    if isinstance(meant, RootModel):
        return _seen(value, meant.root)
    match value:
        case dict():
            return _fields(value, _parts(meant))
        case list():
            parts = meant if isinstance(meant, list | tuple) else ()
            if len(parts) != len(value):
                return HIDDEN
            return [_seen(each, part) for each, part in zip(value, parts, strict=True)]
        case _:
            return HIDDEN if _parts(meant) else value


def _parts(meant: Any) -> Mapping[str, Any]:
    """What a model, a dataclass or a mapping has within it, by name."""
    match meant:
        case BaseModel():
            parts = dict(meant.model_extra or {})
            for name, field in type(meant).model_fields.items():
                part = getattr(meant, name) if field.repr else _SECRET
                known = (name, field.alias, field.serialization_alias)
                parts |= {each: part for each in known if each is not None}
            return parts
        case Mapping():
            return meant
        case _ if dataclasses.is_dataclass(meant):
            return {
                each.name: getattr(meant, each.name) if each.repr else _SECRET
                for each in dataclasses.fields(meant)
            }
        case _:
            return {}
