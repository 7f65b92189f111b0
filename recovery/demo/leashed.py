"""Runs ``celery`` or ``amends`` until standard input ends: it cannot outlive its starter."""

from __future__ import annotations

import os
import signal
import sys
import threading


def main() -> None:
    """Watch standard input in a thread, and be the program that the first argument names."""
    threading.Thread(target=_end_with_stdin, args=(sys.stdin.fileno(),), daemon=True).start()
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115 - for the whole life
    program = sys.argv.pop(1)
    # The leash comes first, and only one of the two is imported.
    if program == "celery":
        from celery.__main__ import main as celery  # noqa: PLC0415

        celery()
    else:
        from recovery.cli import main as amends  # noqa: PLC0415

        amends()


def _end_with_stdin(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
