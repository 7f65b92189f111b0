"""Alerts given to a program: one run per alert, the alert as JSON on standard input."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO
from uuid import UUID

from recovery.alerts.sinks import SEND_SECONDS, NotSentError

SHOWN = 200
"""How much of what the program complains of is kept."""


class CommandSink:
    """Runs a program of the operator's, without a shell, with this process's environment.

    Input and complaints are files, not pipes: whatever the program or its children do with them,
    nothing here waits for more than the program's end. At the timeout all of them are killed.
    """

    def __init__(self, command: Sequence[str], *, timeout_seconds: float = SEND_SECONDS) -> None:
        self._command = list(command)
        self._timeout = timeout_seconds

    def send(self, alert_id: UUID, body: str) -> None:  # noqa: ARG002 - the body has it too
        """Run the program on `body`; only exit code 0 means that it took it."""
        try:
            with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
                given.write(body.encode())
                given.seek(0)
                code = self._run(given, said)
                complaint = _complaint(said)
        except OSError as error:
            raise NotSentError(f"{self._command[0]} did not run: {error.strerror}") from error
        if code:
            raise NotSentError(f"{self._command[0]} exited with {code}{complaint}")

    def _run(self, given: IO[bytes], said: IO[bytes]) -> int:
        process = subprocess.Popen(  # noqa: S603 - the operator's own setting, and no shell
            self._command,
            stdin=given,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        try:
            return process.wait(self._timeout)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise NotSentError(
                f"{self._command[0]} did not end within {self._timeout:g} s"
            ) from error


def _complaint(said: IO[bytes]) -> str:
    said.seek(0)
    text = " ".join(said.read(SHOWN).decode(errors="replace").split())
    return f": {text}" if text else ""
