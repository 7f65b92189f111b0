"""What one server keeps on disk beside its data: password, port, log, and the family lock.

The *family lock* is a `flock` that the starter takes and the server inherits. The kernel lets go
of it when the last process of the server's family is gone, however it went. Hence whoever gets the
lock knows that nobody runs or is being started here, with no pid to misread; and a starter that
dies between "started" and "pid file written" does not make its server invisible.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO

from workers.local_servers.deadline import Deadline
from workers.local_servers.errors import LocalServerError
from workers.local_servers.ports import free_port, is_free

# A port stays busy for a moment after its server was killed; a longer-lived owner is somebody else.
_PORT_PATIENCE = timedelta(seconds=2)


class DataDirectory:
    """The private directory (0700) of one server. Nothing here is created before `create`."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def log_path(self) -> Path:
        return self.path / "server.log"

    def create(self) -> None:
        """Make the directory; an existing one must be ours.

        Raises:
            LocalServerError: it belongs to another user.
        """
        make_private(self.path)

    @property
    def password(self) -> str:
        return self.password_file().read_text()

    def password_file(self) -> Path:
        """The file with the server's password: minted on first use, for the owner's eyes only."""
        path = self.path / "password"
        if not path.exists():
            write_private(path, secrets.token_urlsafe(24))
        return path

    @property
    def port(self) -> int:
        """The port that was chosen last; 0 before the first start."""
        try:
            return int(self._port_path.read_text())
        except FileNotFoundError:
            return 0

    def choose_port(self) -> int:
        """The port of last time, so that URLs survive a restart; a new one if somebody took it."""
        if not self._is_port_usable():
            write_private(self._port_path, str(free_port()))
        return self.port

    def log_size(self) -> int:
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def open_log(self) -> IO[bytes]:
        self.log_path.touch(mode=0o600)
        return self.log_path.open("ab")

    def log_since(self, offset: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")

    @contextmanager
    def family_lock(self) -> Iterator[int | None]:
        """The lock's file descriptor, to be inherited by the server; None if a family lives."""
        descriptor = os.open(self.path / "family.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
        finally:
            os.close(descriptor)

    def has_family(self) -> bool:
        if not self.path.exists():
            return False
        with self.family_lock() as lock:
            return lock is None

    @property
    def _port_path(self) -> Path:
        return self.path / "port"

    def _is_port_usable(self) -> bool:
        if self.port == 0:
            return False
        deadline = Deadline(_PORT_PATIENCE)
        while not is_free(self.port):
            if not deadline.pause():
                return False
        return True


def make_private(path: Path) -> None:
    """Make a directory that only its owner may read; an existing one keeps its mode.

    Root's may be passed through, as its PostgreSQL may have to run as nobody: what lies in it has
    modes of its own.

    Raises:
        LocalServerError: it exists and belongs to another user.
    """
    path.mkdir(mode=0o700 if os.geteuid() else 0o711, parents=True, exist_ok=True)
    owner = path.stat().st_uid
    if os.geteuid() not in (0, owner):
        raise LocalServerError(
            f"{path} belongs to another user (uid {owner}): use a directory of your own",
            server="local servers",
        )


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step; a reader, or a crash, never sees half of it."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text(text)
    draft.replace(path)
