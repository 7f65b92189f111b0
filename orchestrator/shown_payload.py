"""A payload as it may be shown: what its model does not print stays hidden."""

from __future__ import annotations

from typing import Any

from pydantic import SecretBytes, SecretStr

from orchestrator.definition import SagaDefinition
from orchestrator.entries import Json

HIDDEN = "***"


def shown(payload: Json, definition: SagaDefinition[Any] | None) -> Json:
    """Return the payload with every secret field hidden.

    Secret is a field declared with ``repr=False`` or as a secret type. Of a definition that is not
    known here nobody can tell, so every value is hidden but those of its search attributes, which
    the caller shows anyway.
    """
    if not isinstance(payload, dict):
        return HIDDEN
    return {name: _value(name, value, definition) for name, value in payload.items()}


def _value(name: str, value: Json, definition: SagaDefinition[Any] | None) -> Json:
    field = None if definition is None else definition.payload.model_fields.get(name)
    if value is None:
        return None
    if field is None or not field.repr or field.annotation in (SecretStr, SecretBytes):
        return HIDDEN
    return value
