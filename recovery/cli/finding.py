"""Which saga a person means: an id, the beginning of one, or a key of the business."""

from __future__ import annotations

import re
from uuid import UUID

from orchestrator.errors import SagaNotFoundError
from orchestrator.storage.reads import Reads, SagaSummary
from recovery.cli.failures import ExitCode, Failure

_PREFIX = re.compile(r"[0-9a-fA-F][0-9a-fA-F-]{3,35}")
"""Four digits at least: shorter ones name nothing in particular."""

_DIGITS = 32


def find_saga(reads: Reads, named: str) -> SagaSummary:
    """Return the saga that `named` means: first as an id, then as a key, then as a prefix.

    Raises:
        SagaNotFoundError: nothing has that id or key.
        Failure: several do; the message names them.
    """
    found = _candidates(reads, named)
    if not found:
        raise SagaNotFoundError(
            f"no saga has the id or key {named!r}; `amends list` shows the newest"
        )
    if len(found) > 1:
        ids = ", ".join(f"{each.definition} {each.id}" for each in found[:5])
        raise Failure(f"{named!r} means several sagas ({ids}); give the whole id", ExitCode.USAGE)
    return found[0]


def _candidates(reads: Reads, named: str) -> list[SagaSummary]:
    saga_id = whole_id(named)
    if saga_id is not None and (known := reads.get(saga_id)) is not None:
        return [known]
    if by_key := reads.find(key=named, limit=5):
        return by_key
    if _PREFIX.fullmatch(named) and len(named.replace("-", "")) <= _DIGITS:
        return reads.by_prefix(named)
    return []


def whole_id(text: str) -> UUID | None:
    """Return `text` as an id, or None when it is not a whole one."""
    try:
        return UUID(text)
    except ValueError:
        return None
