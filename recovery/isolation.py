"""This installation, and nothing in its place: the four package names are common ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("orchestrator", "steps", "workers", "recovery")

ROOT = Path(__file__).resolve().parents[1]
"""Where the four packages are: the repository, or site-packages."""


def child_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment whose Python imports our packages first and the caller's last.

    The interpreter, and then Celery, would put the current directory before everything: a folder
    there named ``workers`` would be run instead of ours. It is on the path already, further back,
    so neither does.
    """
    known = dict(os.environ if environment is None else environment)
    path = [str(ROOT), known.get("PYTHONPATH", ""), str(Path.cwd())]
    return known | {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONSAFEPATH": "1",
    }


def strangers() -> dict[str, Path | None]:
    """Return those of our package names under which Python finds something else, and where."""
    return {name: place for name in PACKAGES if (place := _place(name)) != ROOT / name}


def _place(name: str) -> Path | None:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).resolve().parent
