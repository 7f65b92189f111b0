"""A real Valkey (or Redis) on this machine: started, found again, killed, restarted, stopped."""

import signal
import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from workers.local_servers.daemon import Command, Daemon, Escalation, clean_environment
from workers.local_servers.data_directory import DataDirectory, write_private
from workers.local_servers.deadline import Deadline
from workers.local_servers.discovery import Source, find_valkey
from workers.local_servers.ports import LOOPBACK
from workers.local_servers.processes import Process

_START_TIMEOUT = timedelta(seconds=60)
_PING_SECONDS = 5.0
_SIGNALS: Escalation = (
    (signal.SIGTERM, timedelta(seconds=10)),
    (signal.SIGKILL, timedelta(seconds=10)),
)


class Valkey:
    """The Valkey of one directory. Creating the object starts and creates nothing.

    It keeps every write in its append-only file (synced each second; with `durable=False` when the
    system likes) and never evicts. `settings` are directives of valkey.conf for the next start; a
    server that already runs keeps its own. It runs on after the end of this process: see
    `running_servers`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
        binaries: Source | None = None,
        start_timeout: timedelta = _START_TIMEOUT,
    ) -> None:
        self.directory = DataDirectory(directory)
        self._daemon = Daemon(
            _Recipe(
                self.directory,
                settings={
                    "appendfsync": "everysec" if durable else "no",
                    **(settings or {}),
                },
                binaries=binaries,
            ),
            start_timeout=start_timeout,
        )

    @property
    def port(self) -> int:
        return self.directory.port

    @property
    def url(self) -> str:
        """The broker URL of database 0, with the password."""
        return f"redis://:{self.directory.password}@{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """The server's pid, if it runs."""
        return self._daemon.pid

    def is_running(self) -> bool:
        return self._daemon.is_ready()

    def start(self) -> bool:
        """Return when the server takes commands; True if it had to be started.

        Idempotent: a server that already runs in the directory is used, whoever started it.

        Raises:
            LocalServerError: no program, or the server did not come up; the message says why.
        """
        return self._daemon.start()

    def stop(self) -> None:
        """Save and end; return when no process of the server is left.

        Raises:
            ServerStopError: it outlived every signal, or belongs to another user.
        """
        self._daemon.stop(_SIGNALS)

    def kill(self) -> None:
        """SIGKILL, as a crash would do it; return when it is gone."""
        self._daemon.kill()

    def restart(self) -> None:
        """Stop and start. The URL and the acknowledged writes stay."""
        self.stop()
        self.start()


class _Recipe:
    """The `daemon.Recipe` of a Valkey."""

    name = "Valkey"
    program_names = ("valkey-server", "redis-server")

    def __init__(
        self, directory: DataDirectory, *, settings: Mapping[str, str], binaries: Source | None
    ) -> None:
        self.directory = directory
        self._settings = settings
        self._binaries = binaries

    def recorded_pid(self) -> int | None:
        try:
            text = self._pid_path.read_text().strip()
        except FileNotFoundError:
            return None
        return int(text) if text.isdigit() else None

    def recognises(self, process: Process) -> bool:
        if not process.arguments or Path(process.arguments[0]).name not in self.program_names:
            return False
        return str(self._configuration_path) in process.arguments

    def is_ready(self) -> bool:
        """Also false while it loads its data: then it answers PING with an error."""
        try:
            with (
                socket.create_connection((LOOPBACK, self.directory.port), _PING_SECONDS) as link,
                link.makefile("rb") as answers,
            ):
                link.sendall(f"AUTH {self.directory.password}\r\nPING\r\nQUIT\r\n".encode())
                return b"+PONG" in answers.read()
        except OSError:
            return False

    def prepare(self, lock: int, deadline: Deadline) -> Command:  # noqa: ARG002 - the recipe's form
        program = find_valkey(self._binaries)
        self.directory.data.mkdir(mode=0o700, exist_ok=True)
        self._pid_path.unlink(missing_ok=True)
        write_private(self._configuration_path, self._configuration())
        return Command(
            arguments=[str(program), str(self._configuration_path)],
            environment=clean_environment(),
        )

    def may_pass(self, log: str) -> bool:
        return "Address already in use" in log

    @property
    def _configuration_path(self) -> Path:
        return self.directory.path / "valkey.conf"

    @property
    def _pid_path(self) -> Path:
        return self.directory.path / "valkey.pid"

    def _configuration(self) -> str:
        """A file, since a command line would show the password to everybody."""
        directives = {
            "bind": LOOPBACK,
            "port": str(self.directory.choose_port()),
            "requirepass": self.directory.password,
            "dir": _quoted(self.directory.data),
            "pidfile": _quoted(self._pid_path),
            "set-proc-title": "no",  # the command line is how the process is recognised
            "daemonize": "no",
            "appendonly": "yes",
            "maxmemory-policy": "noeviction",
            "save": '""',  # the append-only file is the one copy
            **self._settings,
        }
        return "".join(f"{key} {value}\n" for key, value in directives.items())


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
