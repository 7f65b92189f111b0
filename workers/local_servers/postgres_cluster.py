"""PostgreSQL's data directory: how it is made, launched, and recognised when it is in use."""

import shutil
import socket
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from workers.local_servers.daemon import Command, clean_environment
from workers.local_servers.data_directory import DataDirectory
from workers.local_servers.deadline import Deadline
from workers.local_servers.discovery import Source, find_postgres
from workers.local_servers.errors import ServerStartError
from workers.local_servers.launcher import Launcher, choose_launcher
from workers.local_servers.ports import LOOPBACK
from workers.local_servers.processes import Process

USER = "amends"

_PID_LINE, _PORT_LINE, _STATUS_LINE = 0, 3, 7  # of postmaster.pid
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # the one question that needs no login
_ANSWER_SECONDS = 5.0
# A dead server's traces stay for a moment, and a free port can be lost to another program.
_PASSING = (
    'lock file "postmaster.pid" already exists',
    "pre-existing shared memory block",
    "could not create any TCP/IP sockets",
)


class PostgresCluster:
    """The `daemon.Recipe` of a PostgreSQL."""

    name = "PostgreSQL"
    program_names = ("postgres", "postmaster")

    def __init__(
        self, directory: DataDirectory, *, settings: Mapping[str, str], binaries: Source | None
    ) -> None:
        self.directory = directory
        self._settings = {
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            **settings,
        }
        self._binaries = binaries

    @property
    def port(self) -> int:
        """The running server's, which somebody may have started elsewhere; else the last one."""
        lines = self._pid_file()
        return int(lines[_PORT_LINE]) if len(lines) > _STATUS_LINE else self.directory.port

    def recorded_pid(self) -> int | None:
        lines = self._pid_file()
        return int(lines[_PID_LINE]) if lines and lines[_PID_LINE].isdigit() else None

    def recognises(self, process: Process) -> bool:
        if not process.arguments or Path(process.arguments[0]).name not in self.program_names:
            return False
        # A postmaster works in its data directory, and those that we start name it as well.
        data = self.directory.data
        return data.resolve() == process.directory or str(data) in process.arguments

    def is_ready(self) -> bool:
        """The file says so, and somebody answers: a dying server's file still says "ready"."""
        lines = self._pid_file()
        says_ready = len(lines) > _STATUS_LINE and lines[_STATUS_LINE].strip() == "ready"
        return says_ready and self._answers()

    def prepare(self, lock: int, deadline: Deadline) -> Command:
        launcher = choose_launcher(find_postgres(self._binaries), self.directory.path)
        if not self._version_path.exists():
            self._create(launcher, lock, deadline)
        self._refuse_other_version(launcher)
        launcher.give(self.directory.data)
        # PostgreSQL would take a zombie, or a stranger under the same pid, for its predecessor. The
        # lock says that the predecessor and its children are gone.
        self._pid_path.unlink(missing_ok=True)
        options = {"port": str(self.directory.choose_port()), **self._settings}
        arguments = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        return Command(
            arguments=launcher.command("postgres", "-D", str(self.directory.data), *arguments),
            environment=clean_environment(),
            user=launcher.user,
        )

    def may_pass(self, log: str) -> bool:
        return any(reason in log for reason in _PASSING)

    @property
    def _pid_path(self) -> Path:
        return self.directory.data / "postmaster.pid"

    @property
    def _version_path(self) -> Path:
        return self.directory.data / "PG_VERSION"

    def _answers(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), _ANSWER_SECONDS) as link:
                link.sendall(_SSL_REQUEST)
                return link.recv(1) in (b"S", b"N")
        except OSError:
            return False

    def _pid_file(self) -> Sequence[str]:
        try:
            return self._pid_path.read_text().splitlines()
        except FileNotFoundError:
            return ()

    def _create(self, launcher: Launcher, lock: int, deadline: Deadline) -> None:
        """Under another name until complete: a crash in between is as if it had not begun."""
        draft = self.directory.path / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        launcher.give(draft)
        launcher.give(self.directory.password_file())
        self._run_initdb(launcher, draft, lock, deadline)
        draft.replace(self.directory.data)

    def _run_initdb(self, launcher: Launcher, draft: Path, lock: int, deadline: Deadline) -> None:
        arguments = ["-D", str(draft), "-U", USER, "-E", "UTF8", "--locale=C"]
        arguments += ["-A", "scram-sha-256", f"--pwfile={self.directory.password_file()}"]
        if self._settings.get("fsync") == "off":
            arguments.append("--no-sync")  # half a second instead of ten on a busy disk
        offset = self.directory.log_size()
        try:
            with self.directory.open_log() as log:
                subprocess.run(  # noqa: S603 - programs that discovery has found
                    launcher.command("initdb", *arguments),
                    env=clean_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.directory.path,
                    user=launcher.user,
                    group=launcher.user,
                    extra_groups=None if launcher.user is None else [],
                    pass_fds=(lock,),
                    timeout=deadline.remaining_seconds,
                    check=True,
                )
        except subprocess.SubprocessError as error:
            log_text = self.directory.log_since(offset)
            raise self._start_error("initdb failed or was too slow", log_text) from error

    def _refuse_other_version(self, launcher: Launcher) -> None:
        version = self._version_path.read_text().strip()
        if version != str(launcher.version):
            raise self._start_error(
                f"{self.directory.data} was made by PostgreSQL {version}, but {launcher.programs} "
                f"is {launcher.version}: use another directory, or the programs of {version}"
            )

    def _start_error(self, reason: str, log: str = "") -> ServerStartError:
        return ServerStartError(reason, server=self.name, log_path=self.directory.log_path, log=log)
