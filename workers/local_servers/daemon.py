"""Starting, finding again and stopping one server process, whoever started it.

A server's life hangs on no process of ours. It is found by its own pid file, believed only if the
process under that pid is alive, no zombie, and recognisably this server; and by the family lock of
its directory (see `data_directory`), which covers the moments in which there is no pid file.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from workers.local_servers.data_directory import DataDirectory
from workers.local_servers.deadline import Deadline
from workers.local_servers.errors import ServerStartError, ServerStopError
from workers.local_servers.processes import Process, observe, reap

Escalation = Sequence[tuple[signal.Signals, timedelta]]
"""What to send, and how long to wait before the next, harsher one."""

_KILL: Escalation = ((signal.SIGKILL, timedelta(seconds=10)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A server's command line, complete."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: int | None = None  # None: ourselves


class Recipe(Protocol):
    """What differs between servers."""

    @property
    def name(self) -> str: ...
    @property
    def directory(self) -> DataDirectory: ...
    @property
    def program_names(self) -> Sequence[str]: ...

    def recorded_pid(self) -> int | None:
        """What the pid file says, true or not."""

    def recognises(self, process: Process) -> bool:
        """Is this living process the server of this very directory?"""

    def is_ready(self) -> bool:
        """Does the server, known to live, take connections?"""

    def prepare(self, lock: int, deadline: Deadline) -> Command:
        """Make everything ready on disk. Nobody of this directory runs; `lock` proves it."""

    def may_pass(self, log: str) -> bool:
        """Did the start fail for a reason that goes away by itself?"""


class Daemon:
    """The process of one server directory."""

    def __init__(self, recipe: Recipe, *, start_timeout: timedelta) -> None:
        self._recipe = recipe
        self._directory = recipe.directory
        self._start_timeout = start_timeout
        self._last_pid: int | None = None

    @property
    def pid(self) -> int | None:
        """The server's pid, if it runs; still known when somebody has removed its files."""
        pid = self._recipe.recorded_pid() or self._last_pid
        process = None if pid is None else observe(pid)
        if process is None:
            return None
        if process.is_zombie:
            if process.name in self._recipe.program_names:
                reap(process.pid)
            return None
        if not self._recipe.recognises(process):
            return None
        self._last_pid = process.pid
        return process.pid

    def is_ready(self) -> bool:
        return self.pid is not None and self._recipe.is_ready()

    def start(self) -> bool:
        """Return when the server takes connections; True if it had to be started for that.

        Raises:
            ServerStartError: it did not come up; its log says why.
        """
        self._directory.create()
        deadline = Deadline(self._start_timeout)
        while not self.is_ready():
            with self._directory.family_lock() as lock:
                if lock is not None and self.pid is None and self._started(lock, deadline):
                    return True
            if not deadline.pause():
                raise self._start_error("it was not ready in time")
        return False

    def stop(self, signals: Escalation) -> None:
        """Return when the server and all its processes are gone. Nothing running is fine, too.

        Raises:
            ServerStopError: it outlived every signal, or belongs to another user.
        """
        for number, patience in signals:
            if self._ended(number, Deadline(patience)):
                return
        raise ServerStopError("it outlived every signal", server=self._recipe.name, pid=self.pid)

    def kill(self) -> None:
        """SIGKILL, as a crash would do it, and wait until nothing of it is left."""
        self.stop(_KILL)

    def _started(self, lock: int, deadline: Deadline) -> bool:
        """Spawn once and wait; False for a failure that is worth another try."""
        command = self._recipe.prepare(lock, deadline)
        log_offset = self._directory.log_size()
        pid = self._spawn(command, lock)
        try:
            self._wait_until_ready(pid, deadline)
        except BaseException:  # an interrupt, too, must leave no half-started server behind
            _kill_child(pid)
            raise
        if self.is_ready():
            return True
        log = self._directory.log_since(log_offset)
        if self._recipe.may_pass(log):
            return False
        raise self._start_error("it ended at once", log)

    def _spawn(self, command: Command, lock: int) -> int:
        with self._directory.open_log() as log:
            child = subprocess.Popen(  # noqa: S603 - programs that discovery has found
                command.arguments,
                env=command.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory.path,
                user=command.user,
                group=command.user,
                extra_groups=None if command.user is None else [],
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C is for us; we stop the server in our own order
            )
        # The server may outlive this object and this process; `pid` reaps it when it has ended.
        child.returncode = 0
        return child.pid

    def _wait_until_ready(self, child: int, deadline: Deadline) -> None:
        """Return when the server is ready, or its process has ended."""
        while not self.is_ready() and _lives(child):
            if not deadline.pause():
                raise self._start_error("it was not ready in time")

    def _ended(self, number: signal.Signals, deadline: Deadline) -> bool:
        told: int | None = None
        while True:
            pid = self.pid
            if pid is None and not self._directory.has_family():
                return True
            if pid is not None and pid != told:
                self._send(pid, number)
                told = pid
            if not deadline.pause():
                return False

    def _send(self, pid: int, number: signal.Signals) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass  # it ended in this moment, which is what we want
        except PermissionError as error:
            raise ServerStopError(
                "it belongs to another user; stop it as that user or as root",
                server=self._recipe.name,
                pid=pid,
            ) from error

    def _start_error(self, reason: str, log: str = "") -> ServerStartError:
        return ServerStartError(
            reason, server=self._recipe.name, log_path=self._directory.log_path, log=log
        )


def _lives(child: int) -> bool:
    process = observe(child)
    if process is None or process.is_zombie:
        reap(child)
        return False
    return True


def _kill_child(pid: int) -> None:
    deadline = Deadline(timedelta(seconds=10))
    while _lives(pid):
        os.kill(pid, signal.SIGKILL)
        if not deadline.pause():
            return


def clean_environment() -> dict[str, str]:
    """Ours without what would steer PostgreSQL from outside; English messages, UTC."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return kept | {"LC_ALL": "C", "LANG": "C", "TZ": "UTC"}
