"""A small process that stops the servers when their owner dies without having said goodbye.

It reads a pipe of which the owner holds the other end. A byte is the goodbye; the end of the file
is the owner's death. A fork of the owner would keep the pipe open, so the parent's pid counts as
well: it changes in the moment in which the owner dies. Then the watchdog stops the servers, unless
somebody has taken them over meanwhile.
"""

import os
import select
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from workers.local_servers.ownership import Owner, Ownership
from workers.local_servers.pair import POSTGRES, VALKEY, stop_pair
from workers.local_servers.postgres import Postgres
from workers.local_servers.valkey import Valkey

# The owner may have found this package by a path that its children do not inherit.
_PROGRAM = """import sys
sys.path.append(sys.argv[1])
from workers.local_servers.watchdog import main
main(*sys.argv[2:])"""
_GOODBYE = b"."
_LOOK_EVERY_SECONDS = 0.5
_GOODBYE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdog:
    """The owner's side: the guard, and the end of the pipe that keeps it quiet."""

    process: "subprocess.Popen[bytes]"

    @classmethod
    def watch(cls, directory: Path, *, ephemeral: bool) -> Self:
        """Have `directory` guarded from now on; its servers need not run yet.

        With `ephemeral` the guard also removes the directory, after it has stopped the servers.
        """
        owner = Owner.ourselves()
        mode = "ephemeral" if ephemeral else "kept"
        root = str(Path(__file__).resolve().parents[2])
        with (directory / "watchdog.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - this very module
                [
                    *(sys.executable, "-P", "-c", _PROGRAM),
                    *(root, str(directory), mode, str(owner.pid), owner.started),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # what kills the owner's group must not kill its guard
            )
        return cls(process=process)

    def dismiss(self) -> None:
        """Say goodbye and wait until the guard has left; fine, too, when it is gone already."""
        try:
            self.process.communicate(_GOODBYE, timeout=_GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


def main(directory_path: str, mode: str, owner_pid: str, owner_started: str) -> None:
    """Wait for the end of the owner, our parent; after a silent one, stop what it owned."""
    directory, owner = Path(directory_path), Owner(pid=int(owner_pid), started=owner_started)
    if _has_said_goodbye(sys.stdin.fileno(), owner):
        return
    ownership = Ownership(directory)
    with ownership.lock():
        if ownership.owner() != owner:
            return
        stop_pair(Postgres(directory / POSTGRES), Valkey(directory / VALKEY))
        ownership.disclaim()
        if mode == "ephemeral":
            shutil.rmtree(directory, ignore_errors=True)


def _has_said_goodbye(pipe: int, owner: Owner) -> bool:
    while os.getppid() == owner.pid:
        if select.select([pipe], [], [], _LOOK_EVERY_SECONDS)[0]:
            break
    # The last word may lie in the pipe of an owner that has died right after it.
    return bool(select.select([pipe], [], [], 0)[0]) and os.read(pipe, 1) == _GOODBYE
