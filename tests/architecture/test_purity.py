"""The core decides from values alone: no clock, no dice, no ids, no environment, no I/O."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PURE = (
    "actions",
    "definition",
    "entries",
    "errors",
    "guarding",
    "keys",
    "money_at_risk",
    "payloads",
    "planning",
    "state",
    "state_machine",
    "unsettled",
)

FORBIDDEN_MODULES = {
    *("asyncio", "io", "logging", "os", "pathlib", "random", "secrets", "socket", "subprocess"),
    *("sys", "tempfile", "threading", "time", "urllib"),
    *("alembic", "celery", "httpx2", "kombu", "psycopg", "redis", "sqlalchemy", "structlog"),
}
FORBIDDEN_CALLS = {
    *("now", "utcnow", "today", "monotonic", "perf_counter", "time_ns"),
    *("uuid1", "uuid4", "uuid6", "uuid7", "getenv", "urandom", "open", "print", "input"),
}
HEAVY = ("sqlalchemy", "psycopg", "celery", "kombu", "redis", "alembic", "structlog")


def impurities(source: str) -> Iterator[str]:
    """What in a module reads anything but its arguments."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                for each in names:
                    if each.name.partition(".")[0] in FORBIDDEN_MODULES:
                        yield f"line {node.lineno}: import {each.name}"
            case ast.ImportFrom(module=str(module)):
                if module.partition(".")[0] in FORBIDDEN_MODULES:
                    yield f"line {node.lineno}: from {module}"
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
                if name in FORBIDDEN_CALLS:
                    yield f"line {node.lineno}: {name}()"
            case ast.Attribute(attr="environ"):
                yield f"line {node.lineno}: environ"
            case _:
                pass


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_reads_no_clock_dice_ids_or_environment(name: str) -> None:
    source = (ROOT / "orchestrator" / f"{name}.py").read_text()
    assert list(impurities(source)) == []


@pytest.mark.parametrize(
    "planted",
    [
        "import time\n",
        "from random import random\n",
        "import os.path\n",
        "moment = datetime.now()\n",
        "moment = datetime.datetime.now(UTC)\n",
        "token = uuid.uuid4()\n",
        "from uuid import uuid4\ntoken = uuid4()\n",
        "home = environment.environ['HOME']\n",
        "text = open('x').read()\n",
    ],
)
def test_a_planted_impurity_is_found(planted: str) -> None:
    assert list(impurities(planted))


def loaded_by(statement: str) -> set[str]:
    """The top-level packages that a fresh interpreter holds after `statement`."""
    program = (
        f"{statement}\nimport json, sys\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(json.loads(answer.stdout))


def test_the_pure_core_loads_no_library_that_does_io() -> None:
    modules = ", ".join(f"orchestrator.{each}" for each in PURE)
    assert loaded_by(f"import {modules}").isdisjoint(HEAVY)


@pytest.mark.parametrize("package", ["orchestrator", "steps", "workers", "recovery"])
def test_importing_a_package_is_cheap(package: str) -> None:
    loaded = loaded_by(f"import {package}")
    assert loaded.isdisjoint({*HEAVY, "pydantic", "click", "rich"})


@pytest.mark.parametrize("module", ["workers.celery", "workers.bootstrap", "recovery.cli.program"])
def test_what_runs_without_the_extra_loads_no_web_framework(module: str) -> None:
    assert loaded_by(f"import {module}").isdisjoint({"fastapi", "starlette", "uvicorn"})


def test_what_a_service_needs_to_define_a_saga_loads_no_broker() -> None:
    loaded = loaded_by("import orchestrator.definition, orchestrator.client")
    assert loaded.isdisjoint({"celery", "kombu", "redis"})
