"""The name under which a process holds leases: ``host/nonce/pid``.

The nonce is made once per worker, before it forks, so a parent (and whoever works for it) can name
a dead child, and a reused process id never names a stranger's.
"""

from __future__ import annotations

import os
import secrets
import socket

_HOST = socket.gethostname().replace("/", "-")
_NONCE = secrets.token_hex(4)


def owner() -> str:
    """Return this process's name; another one after a fork."""
    return owner_of(os.getpid())


def owner_of(pid: int) -> str:
    """Return the name of a process of this worker: the parent itself or one of its children."""
    return f"{_HOST}/{_NONCE}/{pid}"
