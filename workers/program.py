"""The worker as a program: Celery's own, which checks before it starts and drains before it ends.

Stopping. SIGTERM, and the first Ctrl-C, drain: nothing more is claimed, what runs may finish within
the grace, and the process ends as soon as it has. What still runs then is given up as unknown, so
that another worker goes on with it at once, and the process leaves it behind. SIGQUIT does the
same; Celery's cold shutdown by itself would sleep the whole grace away, and with threads would then
wait for ever.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import click
from celery import signals
from celery.apps.worker import Worker
from celery.worker import state

from orchestrator.errors import AmendsError, DefinitionChangedError, LogUnavailableError
from orchestrator.instrumentation import emit
from orchestrator.storage.database import Database
from orchestrator.storage.reads import Reads
from workers.bootstrap import build_engine
from workers.broker import prefetch_multiplier_of
from workers.lifecycle import THREADED, watch
from workers.settings import Pool, SettingsError

LAST_SECONDS = 4.0
"""After the grace: time to record what was given up, before the process ends in any case."""

HAND_ON_SECONDS = 2.0
"""After the grace, in a cold shutdown: time for children to hand on, before they are killed."""

REFUSED = 1
"""Exit code of a worker that must not start."""

_POOLS: dict[str, Pool] = {
    THREADED[0]: "threads",
    THREADED[1]: "solo",
    "celery.concurrency.prefork": "prefork",
}


class Program(Worker):
    """Celery's worker, for sagas. Made by ``celery -A workers worker``."""

    pool_cls: Any
    concurrency: Any
    prefetch_multiplier: int

    def __init__(self, app: Any = None, hostname: str | None = None, **options: Any) -> None:
        self.saga_app = app or self.app
        if not self.saga_app.settings.remote_control:
            # Talk between workers that nobody listens to; on Redis gossip leaks its queues.
            options |= dict.fromkeys(
                ("without_gossip", "without_mingle", "without_heartbeat"), True
            )
        if not _pool_was_chosen():
            options["pool"] = self.saga_app.settings.pool
        super().__init__(app, hostname, **options)

    def on_init_blueprint(self) -> None:
        """Pool and concurrency are known: what is built from now on agrees with them."""
        pool = _POOLS.get(self.pool_cls.__module__)
        if pool is None:
            raise SettingsError(
                f"pool {self.pool_cls.__module__} is not supported; "
                "use threads, prefork or solo (-P, or AMENDS_POOL)"
            )
        app = self.saga_app
        if self.prefetch_multiplier == app.conf.worker_prefetch_multiplier:
            self.prefetch_multiplier = prefetch_multiplier_of(pool)
        app.settings = app.settings.model_copy(
            update={"pool": pool, "concurrency": self.concurrency}
        )
        self._connect_signals()
        super().on_init_blueprint()

    def on_start(self) -> None:
        """Signals are handled and logs written from here on; nothing has been forked yet."""
        super().on_start()
        try:
            self._check_definitions()
        except AmendsError as error:
            emit("worker.refused", error=str(error))
            sys.stderr.write(f"amends: {error}\n")
            raise SystemExit(REFUSED) from error

    def end(self, exit_code: int) -> None:
        """Drain as on SIGTERM, and end with this code."""
        self._drain(exit_code)
        flags: Any = state  # typed as None, which it is until it is set
        flags.should_stop = exit_code

    def wait_for_soft_shutdown(self) -> None:  # type: ignore[override]
        """In a cold shutdown, before anything is cancelled: drain like in a warm one."""
        self._drain()
        while state.active_requests and self.saga_app.drain.seconds_left > -HAND_ON_SECONDS:
            time.sleep(0.1)

    def _check_definitions(self) -> None:
        """Refuse to run changed steps under a version that sagas in flight still have.

        Raises:
            DefinitionChangedError: such sagas are in flight; the message names them.
            SettingsError: the database has no schema yet.
        """
        engine = build_engine(self.saga_app.settings, pool_size=1)
        reads = Reads(Database(engine))
        try:
            while not _is_stopping():
                try:
                    return _refuse_changed(reads, self.saga_app.definitions)
                except LogUnavailableError as error:
                    emit("worker.waiting_for_database", error=str(error))
                    time.sleep(1.0)
        finally:
            engine.dispose()  # before any fork: a parent keeps no connection

    def _connect_signals(self) -> None:
        """Only now: merely importing the app must not touch another Celery app of the process."""
        signals.worker_shutting_down.connect(self._on_shutting_down, weak=False)
        signals.worker_shutdown.connect(self._on_end, weak=False)
        signals.worker_process_init.connect(self._on_child, weak=False)
        signals.worker_process_shutdown.connect(self._on_end, weak=False)

    def _on_shutting_down(self, **_: Any) -> None:
        self._drain()

    def _on_child(self, **_: Any) -> None:
        runtime = self.saga_app.runtime()
        watch(runtime)
        runtime.heartbeat.ensure()
        self.saga_app.pulses.start()

    def _on_end(self, **_: Any) -> None:
        runtime = self.saga_app.runtime.built
        if runtime is not None:
            runtime.close()
            if runtime.slots.replaced:  # Python would wait at its exit for threads that hang
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(self.saga_app.drain.exit_code)

    def _drain(self, exit_code: int = 0) -> None:
        """Called inside a signal handler: logs nothing, waits for nothing."""
        if self.saga_app.drain.has_begun():
            return
        grace = self.saga_app.settings.grace_seconds
        self.saga_app.drain.begin(grace, exit_code=exit_code)
        watchdog = threading.Timer(grace + LAST_SECONDS, os._exit, (exit_code,))
        watchdog.daemon = True
        watchdog.start()


def _pool_was_chosen() -> bool:
    """Whether ``-P`` stands on the command line; Celery by itself takes ``-P prefork`` for none."""
    context = click.get_current_context(silent=True)
    source = None if context is None else context.get_parameter_source("pool")
    return source is click.core.ParameterSource.COMMANDLINE


def _is_stopping() -> bool:
    """Whether a signal came; Celery keeps the exit code, which may be 0, and None before."""
    flags: tuple[object, ...] = (state.should_stop, state.should_terminate)
    return any(each is not None for each in flags)


def _refuse_changed(reads: Reads, definitions: Any) -> None:
    if not reads.has_schema():
        raise SettingsError("the database has no saga log yet: run `amends migrate`")
    changed = reads.changed_versions(definitions)
    if changed:
        named = ", ".join(
            f"{each.definition} v{each.version} ({each.sagas} in flight)" for each in changed
        )
        raise DefinitionChangedError(
            f"the steps of {named} are not those its sagas were started with; "
            "give the changed definition a new version, and keep the old one until they have ended"
        )
