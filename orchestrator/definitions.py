"""The saga definitions that a process can run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from orchestrator.definition import SagaDefinition
from orchestrator.errors import DefinitionError, UnknownDefinitionError


class Definitions:
    """The definitions this process can run, by name and version."""

    def __init__(self, definitions: Iterable[SagaDefinition[Any]] = ()) -> None:
        self._by_hash: dict[str, SagaDefinition[Any]] = {}
        self._by_version: dict[tuple[str, int], SagaDefinition[Any]] = {}
        for definition in definitions:
            self._add(definition)

    def _add(self, definition: SagaDefinition[Any]) -> None:
        identity = (definition.name, definition.version)
        known = self._by_version.get(identity)
        if known is not None and known is not definition:
            raise DefinitionError(f"{definition} is defined twice; give one of them a new version")
        self._by_version[identity] = definition
        self._by_hash[definition.hash] = definition

    def __iter__(self) -> Iterator[SagaDefinition[Any]]:
        return iter(self._by_version.values())

    def __len__(self) -> int:
        return len(self._by_version)

    @property
    def hashes(self) -> list[str]:
        """The hashes of all definitions, as a claim passes them to the database."""
        return list(self._by_hash)

    def by_hash(self, definition_hash: str) -> SagaDefinition[Any] | None:
        """Return the definition of exactly that shape, or None when this process has it not."""
        return self._by_hash.get(definition_hash)

    def latest(self, name: str) -> SagaDefinition[Any]:
        """Return the highest version of `name`.

        Raises:
            UnknownDefinitionError: nothing of that name is registered; the message lists what is.
        """
        versions = [version for known, version in self._by_version if known == name]
        if not versions:
            names = ", ".join(sorted({known for known, _ in self._by_version})) or "none"
            raise UnknownDefinitionError(
                f"no saga named {name!r}; registered: {names}. Set AMENDS_SAGAS to its module."
            )
        return self._by_version[name, max(versions)]

    def version(self, name: str, version: int) -> SagaDefinition[Any] | None:
        """Return that version of `name`, or None."""
        return self._by_version.get((name, version))
