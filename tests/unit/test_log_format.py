"""What is new in an entry is declared, so that a rolling deploy does not stumble over it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

from orchestrator.entries import ENTRY_TYPES, FIRST_FORMAT, SINCE

FIRST = Path(__file__).with_name("first_log_format.json")
"""Every kind of entry and its fields, as the first release has them. It never changes after that:
until then write it anew with ``python -m tests.unit.test_log_format``."""


def forms() -> dict[str, list[str]]:
    return {
        name: sorted(each.name for each in fields(kind))
        for name, kind in sorted(ENTRY_TYPES.items())
    }


def test_every_kind_and_field_that_the_first_release_has_not_is_declared() -> None:
    """Else old workers claim it, cannot read it, and park the saga: name it in `SINCE`."""
    first = json.loads(FIRST.read_text())
    undeclared = [
        (kind, field)
        for kind, known in forms().items()
        for field in (None, *known)
        if (kind not in first if field is None else field not in first.get(kind, known))
        and SINCE.get((kind, field), FIRST_FORMAT) <= FIRST_FORMAT
    ]
    assert undeclared == []


def test_what_is_declared_exists() -> None:
    known = {(kind, field) for kind, named in forms().items() for field in (None, *named)}
    assert set(SINCE) <= known


if __name__ == "__main__":
    FIRST.write_text(json.dumps(forms(), indent=2) + "\n")
