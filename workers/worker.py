"""The command line of a worker process: what ``amends worker`` runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from workers.settings import Settings


def worker_argv(
    settings: Settings,
    *,
    queues: Sequence[str] = (),
    pool: str | None = None,
    concurrency: int | None = None,
    name: str | None = None,
    extra: Sequence[str] = (),
) -> list[str]:
    """Return the command that starts a worker: a convenience over ``celery -A workers worker``.

    Args:
        settings: what is not given otherwise.
        queues: what to serve; else AMENDS_QUEUES, else every queue of the definitions.
        pool: instead of AMENDS_POOL.
        concurrency: instead of AMENDS_CONCURRENCY.
        name: the node name, for several workers on one host (``pay@%h``).
        extra: further options of Celery's own.

    Raises:
        SettingsError: no database or no broker is set.
    """
    settings.require_database_url()
    settings.require_broker_url()
    argv = [sys.executable, "-m", "celery", "-A", "workers"]
    if settings.log_format != "console" and not sys.stdout.isatty():
        argv.append("--quiet")  # Celery's banner is no log line
    argv += ["worker", "--pool", pool or settings.pool]
    argv += ["--concurrency", str(concurrency or settings.concurrency)]
    chosen = queues or settings.queues
    if chosen:
        argv += ["--queues", ",".join(chosen)]
    if name is not None:
        argv += ["--hostname", name]
    return [*argv, *extra]
