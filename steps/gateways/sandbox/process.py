"""Starts the sandbox gateway as a process of its own and makes sure it does not outlive us."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

_START_LIMIT: Final = timedelta(seconds=20)
_STOP_LIMIT: Final = timedelta(seconds=5)
_SOURCES: Final = Path(__file__).resolve().parents[3]


class SandboxStartError(RuntimeError):
    """The sandbox did not come up; the message holds what it said last."""


class SandboxProcess:
    """A running sandbox. Its ledger outlives it: start again on the same file to go on.

    It stops by itself when this process ends, however it ends, because it watches a pipe whose
    other end only this process holds.
    """

    def __init__(self, process: subprocess.Popen[str], base_url: str, ledger: Path) -> None:
        self._process = process
        self.base_url = base_url
        self.ledger = ledger

    @classmethod
    def start(cls, ledger: Path, *, port: int = 0, log: Path | None = None) -> Self:
        """Start on `port` (0: a free one) and return once it accepts requests.

        `log` receives a JSON line per request.

        Raises:
            SandboxStartError: it ended or stayed silent; is the extra `local` installed?
        """
        command = [sys.executable, "-m", "steps.gateways.sandbox", "--until-stdin-closes"]
        command += ["--port", str(port), "--ledger", str(ledger), *(["--log"] if log else [])]
        errors = (log or ledger.with_suffix(".err")).open("a", encoding="utf-8")
        with errors:
            process = subprocess.Popen(  # noqa: S603 - our own module under our own interpreter
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": _python_path()},
                start_new_session=True,  # a Ctrl-C for us must not kill the judge first
            )
        line = _first_line(process)
        if not line.startswith("listening on "):
            process.kill()
            _reap(process)
            said = Path(errors.name).read_text(encoding="utf-8")[-2000:]
            raise SandboxStartError(f"the sandbox gateway did not start: {said or line!r}")
        return cls(process, f"http://{line.removeprefix('listening on ').strip()}", ledger)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def port(self) -> int:
        return int(self.base_url.rsplit(":", 1)[1])

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """End it at once, as `kill -9` does."""
        self._process.kill()
        _reap(self._process)

    def stop(self) -> None:
        """Ask it to end and see to it that it does. Safe to call again."""
        if self.is_running:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_LIMIT.total_seconds())
        except subprocess.TimeoutExpired:
            self._process.kill()
        _reap(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _first_line(process: subprocess.Popen[str]) -> str:
    """The first line of its output, or what there was of it when it ended or took too long."""
    assert process.stdout is not None
    deadline = time.monotonic() + _START_LIMIT.total_seconds()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if selector.select(max(0.0, deadline - time.monotonic())):
            return process.stdout.readline()
    return ""


def _reap(process: subprocess.Popen[str]) -> None:
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _python_path() -> str:
    """The child finds these sources first, wherever it was started."""
    return os.pathsep.join(filter(None, (str(_SOURCES), os.environ.get("PYTHONPATH", ""))))
