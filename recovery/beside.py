"""The sweeper that stands beside a prefork worker, as a process of its own.

The parent of a prefork pool keeps no thread and no connection, so it cannot release what a killed
child held. It writes a line to this process instead; the end of that pipe is the parent's own end.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
from collections.abc import Iterator

from orchestrator.instrumentation import emit
from recovery.sweep_loop import SweepLoop

CHUNK = 65_536


class Beside:
    """Reads ``died host/nonce/pid`` lines, releases what these processes held, and sweeps."""

    def __init__(self, loop: SweepLoop, *, stdin: int | None = None) -> None:
        self._loop = loop
        self._stdin = sys.stdin.fileno() if stdin is None else stdin
        self._rest = b""
        self._dead: list[str] = []

    def run(self) -> None:
        """Serve until standard input ends.

        Signals are the parent's business: a Ctrl-C for the whole group must not end this process
        before the parent's children are.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdin, selectors.EVENT_READ)
            pause = 0.0
            while True:
                if selector.select(pause):
                    chunk = os.read(self._stdin, CHUNK)
                    if not chunk:
                        break
                    self._dead += self._owners(chunk)
                self._take_over()
                pause = self._loop.tick()
        self._take_over()
        self._loop.leave()

    def _owners(self, chunk: bytes) -> Iterator[str]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            verb, _, owner = line.decode(errors="replace").strip().partition(" ")
            if verb == "died" and owner:
                yield owner
            elif line.strip():
                emit("sweep.unknown_line", line=line.decode(errors="replace")[:200])

    def _take_over(self) -> None:
        """What cannot be taken over now is kept for the next round; its lease ends in any case."""
        if not self._dead:
            return
        try:
            taken_over = self._loop.take_over_from(self._dead)
        except Exception as error:  # noqa: BLE001 - nobody else knows these children
            emit("sweep.failed", error=f"{type(error).__name__}: {error}")
            return
        emit("worker.died", owners=list(self._dead), taken_over=taken_over)
        self._dead.clear()
