"""Text from a command line or a CSV cell, turned into what the payload's model declares."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError


def typed(model: type[BaseModel], name: str, text: str) -> Any:
    """Return `text` as the field's type, or as it is, so that the model itself says what is wrong.

    Structured fields are read as JSON.
    """
    adapter = _adapter(model, name)
    if adapter is None:
        return text
    for parse in (adapter.validate_strings, adapter.validate_json):
        try:
            return parse(text)
        except (ValidationError, ValueError, PydanticUserError):
            continue
    return text


def split(setting: str) -> tuple[str, str]:
    """Return name and text of ``field=value``.

    Raises:
        ValueError: there is no ``=``, or nothing before it.
    """
    name, mark, text = setting.partition("=")
    if not mark or not name.strip():
        raise ValueError(f"{setting!r} is not of the form field=value")
    return name.strip(), text


def _adapter(model: type[BaseModel], name: str) -> TypeAdapter[Any] | None:
    field = model.model_fields.get(name)
    return None if field is None else TypeAdapter(field.rebuild_annotation())
