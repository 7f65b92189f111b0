"""The demo's workers, each on a leash, each ended on the way out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

STOP_SECONDS = 8.0


class Child:
    """One process whose standard input is the leash: it ends when that does."""

    def __init__(
        self, name: str, arguments: list[str], *, directory: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.was_killed = False
        with (directory / f"{name}.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own modules
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=directory,
                env=dict(environment),
                start_new_session=True,  # Ctrl-C is for the demo, which ends them in its order
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        self.was_killed = True
        self._process.kill()
        self._process.wait()
        self._let_go()

    def ask_to_end(self) -> None:
        """Send SIGTERM; `end` waits for it."""
        if self.is_running:
            self._process.terminate()

    def end(self) -> None:
        """Return when it is gone. Idempotent."""
        self.ask_to_end()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._let_go()

    def _let_go(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
