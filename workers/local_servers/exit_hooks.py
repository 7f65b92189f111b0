"""Running something when this process ends, also by the signals that end it without a word."""

import atexit
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

_DEADLY = (signal.SIGTERM, signal.SIGHUP)  # SIGINT already is an exception in Python


class ExitHooks:
    """Calls `action` at the end of this process; not at the end of a fork of it."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._pid = os.getpid()

    def install(self, *, signals: bool) -> None:
        """Act at a normal end; with `signals`, at SIGTERM and SIGHUP as well.

        These are turned into `SystemExit`, but only where nobody else handles or ignores them, and
        only from the main thread, as Python allows it nowhere else.
        """
        atexit.register(self._run)
        if signals and threading.current_thread() is threading.main_thread():
            for number in _DEADLY:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._leave)

    def remove(self) -> None:
        atexit.unregister(self._run)
        if threading.current_thread() is threading.main_thread():
            for number in _DEADLY:
                if signal.getsignal(number) == self._leave:
                    signal.signal(number, signal.SIG_DFL)

    def _run(self) -> None:
        if os.getpid() == self._pid:
            self._action()

    def _leave(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() == self._pid:
            raise SystemExit(128 + number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
