"""Processes of tests, forked from one that has imported the libraries already.

An interpreter that imports Celery, SQLAlchemy and pydantic computes for a second before it does
anything, and the tests start hundreds. The server is started once per pytest process, imports them
once, and forks for each ``python -m module …`` that is wanted. The child is a session of its own
with its own environment, directory and log, reads its settings and imports our modules as a fresh
interpreter would, and dies with the server, which dies with pytest.

Run as a script it is the server: requests are JSON lines on stdin, answers on stdout.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

PRELOADED = (
    "alembic.command",
    "celery.bin.celery",
    "celery.app.amqp",
    "celery.app.log",
    "celery.apps.worker",
    "celery.concurrency.prefork",
    "celery.concurrency.thread",
    "celery.worker.consumer",
    "httpx2",
    "kombu.transport.redis",
    "limits.storage",
    "psycopg",
    "pydantic_settings",
    "rich.console",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.orm",
    "stamina",
    "standardwebhooks",
    "structlog",
)
"""Libraries only: our own modules may read settings where they are imported."""

PDEATHSIG = 1
"""prctl's PR_SET_PDEATHSIG: the kernel kills the child when its parent has died."""


class ForkedProcess:
    """A running ``python -m …``, with the methods of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        log: Path,
        errors: Path | None = None,
    ) -> None:
        self._server = _server()
        log.touch()
        self.pid = self._server.fork(
            {
                "argv": list(arguments),
                "env": dict(environment),
                "cwd": str(cwd),
                "log": str(log),
                "errors": str(errors or log),
            }
        )

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs; minus the signal that ended it."""
        return self._server.ended(self.pid, 0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code once it has ended.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        code = self._server.ended(self.pid, timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    arguments: Sequence[str], *, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m …`` to its end and return what it printed, as `subprocess.run` does."""
    with tempfile.TemporaryDirectory() as directory:
        output, errors = Path(directory) / "out", Path(directory) / "err"
        errors.touch()
        process = ForkedProcess(
            arguments, environment=environment, cwd=Path.cwd(), log=output, errors=errors
        )
        code = process.wait(300)
        return subprocess.CompletedProcess(arguments, code, output.read_text(), errors.read_text())


class _Server:
    """The client's end of the server process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            start_new_session=True,
        )
        self._forking = threading.Lock()
        self._changed = threading.Condition()
        self._forked: list[int] = []
        self._codes: dict[int, int] = {}
        threading.Thread(target=self._listen, daemon=True).start()
        atexit.register(self._process.kill)

    def fork(self, request: Mapping[str, Any]) -> int:
        assert self._process.stdin is not None
        with self._forking, self._changed:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            assert self._changed.wait_for(lambda: self._forked, timeout=60), "nothing was forked"
            return self._forked.pop()

    def ended(self, pid: int, seconds: float | None) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: pid in self._codes, timeout=seconds)
            return self._codes.get(pid)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            with self._changed:
                if "code" in told:
                    self._codes[told["pid"]] = told["code"]
                else:
                    self._codes.pop(told["pid"], None)  # of a process that had this number before
                    self._forked.append(told["pid"])
                self._changed.notify_all()


@cache
def _server() -> _Server:
    return _Server()


# -- the server's side -----------------------------------------------------------------------------


def _serve() -> None:
    for each in PRELOADED:
        import_module(each)
    libc = ctypes.CDLL(None)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([0, reading], [], [])
        if reading in ready:
            os.read(reading, 4096)
            _reap(answers)
        if 0 in ready:
            line = _line()
            if not line:
                return
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for descriptor in (reading, writing, answers.fileno()):
                    os.close(descriptor)
                _become(json.loads(line), libc)
            print(json.dumps({"pid": pid}), file=answers, flush=True)


def _line() -> bytes:
    """One request. Read byte by byte, so that `select` knows of all that was not read."""
    found = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        found += byte
    return bytes(found)


def _reap(answers: IO[str]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"pid": pid, "code": code}), file=answers, flush=True)


def _become(request: Mapping[str, Any], libc: ctypes.CDLL) -> None:
    """Be the process that was wanted; does not return."""
    code = 1
    try:
        os.setsid()
        libc.prctl(PDEATHSIG, signal.SIGKILL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        log, errors = (
            os.open(request[each], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            for each in ("log", "errors")
        )
        for source, target in ((nothing, 0), (log, 1), (errors, 2)):
            os.dup2(source, target)
        for source in (nothing, log, errors):
            os.close(source)
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        time.tzset()
        warnings.simplefilter("ignore")
        _set_path(request["env"])
        module, *arguments = request["argv"]
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as the interpreter does it
        sys.excepthook(*sys.exc_info())
    _leave(code)


def _set_path(environment: Mapping[str, str]) -> None:
    """What a fresh interpreter would import from: PYTHONPATH first, ours after it."""
    first = [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    if not environment.get("PYTHONSAFEPATH"):
        first.insert(0, str(Path.cwd()))
    inherited = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    sys.path[:] = first + [each for each in sys.path if each not in first + inherited]


def _leave(code: int) -> None:
    """End as an interpreter ends: threads, exit handlers, buffers."""
    threading._shutdown()  # type: ignore[attr-defined]  # what `Py_Finalize` calls
    atexit._run_exitfuncs()
    for each in (sys.stdout, sys.stderr):
        each.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
