"""``field=value`` on a command line: payload fields and search attributes, typed as declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from orchestrator.definition import SagaDefinition
from orchestrator.entries import Json
from recovery.cli.fields import split, typed
from recovery.cli.session import Session


def attributes_of(
    session: Session, saga: str | None, where: tuple[str, ...]
) -> Mapping[str, Json] | None:
    """Return search attributes as the definitions type them; None when there are none."""
    if not where:
        return None
    try:
        pairs = [split(each) for each in where]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--where") from None
    return {name: _attribute(session, saga, name, text) for name, text in pairs}


def _attribute(session: Session, saga: str | None, name: str, text: str) -> Json:
    """By the type that a definition gives it; as text where no definition knows it."""
    names = set()
    for definition in session.definitions:
        if saga is None or definition.name == saga:
            if name in definition.attributes:
                return typed(definition.payload, name, text)
            names |= set(definition.attributes)
    known = ", ".join(sorted(names)) or "none"
    session.output.note(f"{name!r} is no search attribute known here ({known}); taken as text")
    return text


def settings_of(definition: SagaDefinition[Any], settings: tuple[str, ...]) -> dict[str, Any]:
    """Return payload fields given as ``field=value``, as the payload's model types them."""
    try:
        pairs = [split(each) for each in settings]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--set") from None
    unknown = [name for name, _ in pairs if name not in definition.payload.model_fields]
    if unknown:
        fields = ", ".join(definition.payload.model_fields)
        raise click.BadParameter(
            f"{definition.name} has no field {unknown[0]!r}; its fields: {fields}",
            param_hint="--set",
        )
    return {name: typed(definition.payload, name, text) for name, text in pairs}
