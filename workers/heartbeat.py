"""One thread per process that runs steps: it shows that the process lives, and ends it in order.

It extends leases, keeps the session by which a death shows at once, and writes both down.

It is started in the process itself, after any fork, and outlives every outage of the database: a
lease that could not be extended ends, and the fence does the rest.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from orchestrator.coordinator import Coordinator
from orchestrator.errors import LogUnavailableError
from orchestrator.instrumentation import emit
from orchestrator.storage.process_session import ProcessSession
from orchestrator.storage.processes import Process, Processes
from workers.draining import PUT_BACK_AFTER_SECONDS, Drain, PutBack, give_up_all
from workers.hung_steps import HungSteps

TICK_SECONDS = 0.5
"""How soon a child notices the order to drain."""

HUNG = 70
"""Exit code of a process in which a step hangs: EX_SOFTWARE, an error inside of it."""

SEEN_SECONDS = 10.0
FORGET_SECONDS = 86_400.0
RETRY_SECONDS = 1.0


class Heartbeat:
    """Extends the leases of this process, says that it lives, and gives up at the end of grace.

    `hand_back` is called at that end: it returns the messages that nobody has begun, and how many.
    `watch` is called at every beat of a worker that is not stopping, with the monotonic time.
    `stop_taking` is called when too many steps hang: the worker is to take no message any more, and
    end with that exit code.

    Args:
        hung: the steps of this process that run past their timeout.
        session: by which others see that this process lives.
        describe: what the register of processes should say of this one, beside its session.
    """

    def __init__(
        self,
        *,
        coordinator: Coordinator,
        processes: Processes,
        session: ProcessSession,
        describe: Callable[[], Process],
        drain: Drain,
        put_back: PutBack,
        lease_seconds: float,
        grace_seconds: float,
        hung: HungSteps,
    ) -> None:
        self._coordinator = coordinator
        self._processes = processes
        self._session = session
        self._registered_key: int | None = None
        self._describe = describe
        self._drain = drain
        self._put_back = put_back
        self._grace_seconds = grace_seconds
        self._hung = hung
        self._ends_since = 0.0
        self.hand_back: Callable[[], int] = lambda: 0
        self.watch: Callable[[float], None] = lambda _now: None
        self.stop_taking: Callable[[int], object] = lambda _exit_code: None
        self._pause = lease_seconds / 3
        self._next_extension = time.monotonic() + self._pause
        self._next_sign = 0.0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def ensure(self) -> None:
        """Start the thread unless it runs; cheap enough for every attempt."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="amends-heartbeat", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """Stop, ring for what was put back, and take this process off the register."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=RETRY_SECONDS)
        self._put_back.ring(self._coordinator)
        self._leave()
        self._session.close()

    def beat(self, now: float) -> None:
        """Do what is due at monotonic time `now`.

        Raises:
            LogUnavailableError: Postgres does not answer; what failed is due again soon.
        """
        self._look_after_hung_steps(now)
        if self._drain.has_begun():
            self._put_back.ring(self._coordinator, older_than_seconds=PUT_BACK_AFTER_SECONDS)
            if self._drain.seconds_left <= 0 or self._only_waits_for_hung_steps(now):
                self._end()
        if now >= self._next_extension:
            self._next_extension = now + RETRY_SECONDS
            self._coordinator.leases.extend()
            self._next_extension = now + self._pause
        self._show(now)
        if not self._drain.has_begun():
            self.watch(now)

    def _look_after_hung_steps(self, now: float) -> None:
        """Replace threads that hang; when those are too many, end, to be started afresh."""
        try:
            self._hung.look(now)
        except LogUnavailableError as error:
            emit("heartbeat.failed", error=str(error))
        if self._hung.is_stuck:
            self._end(HUNG)
        if self._hung.are_too_many and not self._drain.has_begun():
            emit("worker.hung", replaced=self._hung.replaced)
            self._drain.begin(self._grace_seconds, exit_code=HUNG)
            self.stop_taking(HUNG)

    def _only_waits_for_hung_steps(self, now: float) -> bool:
        """Whether all else has ended, and what was put back had its time."""
        if not self._hung.replaced or self._coordinator.leases.holdings:
            self._ends_since = 0.0
            return False
        self._ends_since = self._ends_since or now
        return now - self._ends_since > PUT_BACK_AFTER_SECONDS + TICK_SECONDS

    def _show(self, now: float) -> None:
        """Be on the register with a session that stands, or with none: never with a lost one."""
        is_first = self._next_sign == 0.0
        if self._session.key != self._registered_key:
            self._sign(now)
        self._keep_session()
        if self._session.key != self._registered_key or now >= self._next_sign:
            self._sign(now)
        if is_first:
            self._processes.forget(FORGET_SECONDS)

    def _keep_session(self) -> None:
        try:
            self._session.keep()
        except LogUnavailableError as error:  # without one, leases alone say that we live
            emit("heartbeat.failed", error=str(error))

    def _sign(self, now: float) -> None:
        """Write down that this process lives, and by what its death shows.

        A session that others do not see would make them take us for dead. One that was lost a
        moment ago is replaced at the next beat; one that was never seen is of no use.
        """
        key = self._session.key
        is_new, self._registered_key = key != self._registered_key, key
        is_seen = self._processes.seen(replace(self._describe(), session_key=key))
        self._next_sign = now + SEEN_SECONDS
        if not is_seen:
            self._session.close(for_good=is_new)

    def _run(self) -> None:
        while True:
            try:
                self.beat(time.monotonic())
            except LogUnavailableError as error:
                emit("heartbeat.failed", error=str(error))
            except Exception as error:  # noqa: BLE001 - without this thread every lease is lost
                emit("heartbeat.failed", error=f"{type(error).__name__}: {error}")
            if self._stop.wait(TICK_SECONDS):
                return

    def _end(self, exit_code: int = 0) -> None:
        """The end of grace: hand on what still runs, and go without waiting for it."""
        given_up = give_up_all(self._coordinator)
        self._put_back.ring(self._coordinator)
        handed_back = self.hand_back()
        self._leave()
        emit("worker.grace_ended", given_up=given_up, handed_back=handed_back)
        # A thread that runs a step cannot be stopped.
        os._exit(exit_code or self._drain.exit_code)

    def _leave(self) -> None:
        try:
            self._processes.gone([self._describe().owner])
        except LogUnavailableError as error:
            emit("heartbeat.failed", error=str(error))
