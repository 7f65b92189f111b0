"""How this project uses its broker: one table of Celery settings, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu import Exchange, Queue

from workers.settings import Settings

NOWHERE = "memory://"
"""Celery wants a broker URL even of an app that will never publish."""

_COMMON: Mapping[str, Any] = {
    # The truth is in Postgres: no result backend, no retries of Celery's, ids only in messages.
    "task_ignore_result": True,
    "result_backend": None,
    "task_serializer": "json",
    "accept_content": ["json"],
    "task_publish_retry": False,
    "task_track_started": False,
    "task_always_eager": False,
    "task_store_errors_even_if_ignored": False,
    # Direct exchanges become the anonymous one: no binding that a flushed Redis would forget.
    "task_default_exchange_type": "direct",
    "task_create_missing_queues": False,
    # Events nearly double a worker's CPU per task; rate limits cost a bucket per task.
    "task_send_sent_event": False,
    "worker_send_task_events": False,
    "worker_disable_rate_limits": True,
    # Our logging is structlog's, and nobody redirects prints into it.
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    # A worker never gives its broker up.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # Cancelling would kill children in the middle of a commit; the fence handles the second run.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_proc_alive_timeout": 30.0,
    # Nobody waits for a lost child's result, least of all for ten seconds in a shutdown.
    "worker_lost_wait": 1.0,
    "worker_max_memory_per_child": 400_000,
}

_CONNECTING: Mapping[str, Any] = {
    # Who rings does not wait for a broker that is down: kombu would try for six seconds, in the
    # middle of a step or of a caller's start. Consuming has its own, endless patience.
    "max_retries": 0,
}

UNDER_WAY = 0
NEW = 9
"""Priorities of messages: what was begun goes before what is new.

A lost attempt that is repeated, or an undo, must not wait behind every saga that started since.
"""

_REDIS: Mapping[str, Any] = {
    "priority_steps": [UNDER_WAY, NEW],  # two lists per queue instead of four
    "health_check_interval": 10,
    "socket_timeout": 5,  # a publish on a dead connection would wait for ever
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
}


_IMPATIENT: Mapping[str, Any] = {
    # Connecting and publishing together hold a start for less than two seconds, however deaf the
    # broker is. A consumer must wait longer: Redis answers its BRPOP after one.
    "socket_timeout": 0.9,
    "socket_connect_timeout": 0.9,
}


def broker_configuration(settings: Settings) -> dict[str, Any]:
    """Return the Celery settings that make an app use the broker as a doorbell."""
    return {
        **_COMMON,
        "broker_url": settings.broker_url or NOWHERE,
        "broker_transport_options": _transport_options(settings),
        "broker_pool_limit": settings.concurrency + 2,  # one per publishing thread
        "task_acks_late": _redelivers(settings),
        "task_reject_on_worker_lost": _redelivers(settings),
    }


def client_configuration(settings: Settings) -> dict[str, Any]:
    """Return the same for an app that only publishes, in a caller who waits for it."""
    configuration = broker_configuration(settings)
    if settings.is_redis:
        configuration["broker_transport_options"] |= _IMPATIENT
    return configuration


def worker_configuration(settings: Settings) -> dict[str, Any]:
    """Return the further settings of a worker's own app."""
    return {
        "worker_concurrency": settings.concurrency,
        "worker_prefetch_multiplier": prefetch_multiplier_of(settings.pool),
        "worker_soft_shutdown_timeout": settings.grace_seconds,
        "worker_enable_remote_control": settings.remote_control,
    }


def prefetch_multiplier_of(pool: str) -> int:
    """Threads fetch ahead, because nothing wakes the loop when one of them gets free."""
    return 4 if pool == "threads" else 1


def queue_named(name: str, settings: Settings | None = None) -> Queue:
    """Return a queue as it is declared: durable, direct, on RabbitMQ a quorum queue."""
    is_rabbit = settings is not None and settings.broker_url is not None and not settings.is_redis
    arguments = {"x-queue-type": "quorum"} if is_rabbit else None
    return Queue(name, Exchange(name, type="direct"), routing_key=name, queue_arguments=arguments)


def _redelivers(settings: Settings) -> bool:
    return settings.broker_profile == "redeliver" or not settings.is_redis


def _transport_options(settings: Settings) -> dict[str, Any]:
    if not settings.is_redis:
        return {**_CONNECTING, "confirm_publish": True}
    options = {
        **_CONNECTING,
        **_REDIS,
        "global_keyprefix": settings.key_prefix,
        "max_connections": settings.concurrency + 20,
    }
    if settings.broker_profile == "fast":
        # Saves two of three round trips per message. A killed worker forgets what it had fetched;
        # the sweep finds that sooner than Redis' visibility timeout would.
        return {**options, "ack_emulation": False}
    return {**options, "visibility_timeout": max(60, int(2 * settings.lease_seconds))}
