"""Whose end is the end of the servers: one living process owns the servers of a directory.

The owner is who started them, or who came back to them after their owner had died. When it ends in
any way that lets code run (return, exception, Ctrl-C, SIGTERM, SIGHUP), it stops them. Others may
use them meanwhile; their end changes nothing. All that starts or stops servers does so under one
lock per directory, so that nobody attaches to servers that are about to be stopped.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from workers.local_servers.data_directory import make_private, write_private
from workers.local_servers.processes import is_same, observe


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process, named so that a later one under the same pid is not taken for it."""

    pid: int
    started: str

    @classmethod
    def ourselves(cls) -> "Owner":
        process = observe(os.getpid())
        return cls(pid=os.getpid(), started="" if process is None else process.started)

    def is_alive(self) -> bool:
        return is_same(self.pid, self.started)


class Ownership:
    """The owner's record in the directory of the servers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._record = directory / "owner.json"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold everybody else off starting and stopping; waits for who holds it now.

        Not to be taken twice: the second would wait for the first.
        """
        make_private(self._directory)
        descriptor = os.open(self._directory / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def owner(self) -> Owner | None:
        try:
            return Owner(**json.loads(self._record.read_text()))
        except FileNotFoundError:
            return None

    def claim(self) -> bool:
        """Become the owner, unless one lives. Under `lock`."""
        owner = self.owner()
        if owner is not None and owner.is_alive():
            return False
        write_private(self._record, json.dumps(asdict(Owner.ourselves())))
        return True

    def disclaim(self) -> None:
        """Nobody owns the servers now, as there are none. Under `lock`."""
        self._record.unlink(missing_ok=True)
