"""Runs Celery's command line until standard input ends, so that it cannot outlive its starter."""

from __future__ import annotations

import os
import signal
import sys
import threading


def main() -> None:
    """Watch standard input in a thread, and be ``celery`` otherwise."""
    threading.Thread(target=_end_with_stdin, args=(sys.stdin.fileno(),), daemon=True).start()
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115 - for the whole life
    from celery.__main__ import main as celery  # noqa: PLC0415 - the leash comes first

    celery()


def _end_with_stdin(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
