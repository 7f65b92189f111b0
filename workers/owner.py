"""The name under which a process holds leases: ``host/nonce/pid``.

The nonce is made once per worker, before it forks, so a parent (and whoever works for it) can name
a dead child, and a reused process id never names a stranger's.
"""

from __future__ import annotations

import functools
import os
import secrets
import socket
from pathlib import Path

from workers.local_servers import processes

_PROC = Path("/proc")

_HOST = socket.gethostname().replace("/", "-")
_NONCE = secrets.token_hex(4)


def owner() -> str:
    """Return this process's name; another one after a fork."""
    return owner_of(os.getpid())


def owner_of(pid: int) -> str:
    """Return the name of a process of this worker: the parent itself or one of its children."""
    return f"{_HOST}/{_NONCE}/{pid}"


@functools.cache
def pid_space() -> str | None:
    """Name the space in which a pid of this process means the same to others; None: unknown.

    Two containers of one host have the boot in common and number their processes each for itself,
    so the pid namespace is part of the name. Only Linux tells, and only a /proc of our own space.
    """
    try:
        if (_PROC / "self").readlink() != Path(str(os.getpid())):
            return None  # /proc shows the processes of another namespace
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = (_PROC / "self/ns/pid").readlink()
    except OSError:
        return None
    return f"{_HOST}/{boot}/{namespace}"


def pid_started() -> str | None:
    """Return what tells this process from a later one under its pid, or None."""
    seen = processes.observe(os.getpid()) if pid_space() else None
    return None if seen is None else seen.started
