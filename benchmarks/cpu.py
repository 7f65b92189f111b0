"""CPU time of whole process trees, read from the kernel: user and system, finished children too."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A named process and everything below it."""

    name: str
    pid: int


def cpu_seconds(trees: Iterable[Tree]) -> dict[str, float]:
    """Return the CPU seconds each tree has used so far."""
    children = _children()
    return {each.name: _tree_seconds(each.pid, children) for each in trees}


def _tree_seconds(pid: int, children: dict[int, list[int]]) -> float:
    own = _seconds(pid)
    return own + sum(_tree_seconds(child, children) for child in children.get(pid, ()))


def _seconds(pid: int) -> float:
    fields = _stat(pid)
    if fields is None:
        return 0.0
    return sum(int(fields[index]) for index in range(11, 15)) / TICK  # utime … cstime


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            found.setdefault(int(fields[1]), []).append(int(entry.name))
    return found


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rsplit(")", 1)[1].split()
