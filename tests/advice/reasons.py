"""Every reason for which a saga can be parked, as the code names them."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

from orchestrator.state import SET_ASIDE

ROOT = Path(__file__).parents[2]
FOLDERS = ("orchestrator", "steps", "workers", "recovery")
PARKS = frozenset({"Park", "SagaParked"})
"""What parks a saga, by name; `SET_ASIDE` names the reasons of those that are set aside."""


def reasons() -> dict[str, str]:
    """Return each reason with the place that names it.

    Raises:
        AssertionError: a call names its reason in a way that cannot be read here.
    """
    found = dict.fromkeys(SET_ASIDE, "orchestrator/state.py")
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for reason, line in reasons_in(path, module):
                found.setdefault(reason, f"{path.relative_to(ROOT)}:{line}")
    return found


def reasons_in(path: Path, module: str) -> Iterator[tuple[str, int]]:
    """Return the reasons that a file names, with their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in PARKS:
                given = [each.value for each in node.keywords if each.arg == "reason"]
                for value in given:
                    yield from ((each, node.lineno) for each in _named(value, module))


def _named(value: ast.expr, module: str) -> Iterator[str]:
    """The texts that an expression may be; one that is handed on was named where it was made."""
    match value:
        case ast.Constant(value=str() as text):
            yield text
        case ast.Name(id=name) if name.isupper():
            constant = getattr(importlib.import_module(module), name)
            assert isinstance(constant, str), f"{module}.{name} is no text"
            yield constant
        case ast.IfExp(body=body, orelse=orelse):
            yield from _named(body, module)
            yield from _named(orelse, module)
        case _:
            return
