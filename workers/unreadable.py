"""Bytes on the broker that are no message: told of, dropped, and never the end of a worker.

Kombu and Celery let such an item's exception out of the event loop, and the worker ends with it;
one forged item then ends every worker of its queue, one after the other. An item that was taken is
off the queue, so to drop it is to go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from queue import Empty
from typing import Any

from celery.app.amqp import AMQP
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer
from kombu import Connection
from kombu.exceptions import KombuError
from kombu.transport import redis, virtual

from orchestrator.instrumentation import emit
from workers.address import address_of

logger = get_logger(__name__)

RECONNECT_SECONDS = 5.0
"""The longest pause between two tries to reach a lost broker; Celery's own grows to 32 s."""

_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, LookupError, RecursionError)
"""What reading a value of another shape, or a very deep one, raises: no connection error is one."""


def _tell(error: Exception) -> None:
    emit("message.ignored", task=None, reason=f"unreadable: {type(error).__name__}")


def _check_arguments(message: Any) -> None:
    """Let no task be called with other things than arguments.

    Celery finds that out in the task's tracer, at 100 kB of memory a message.

    Raises:
        TypeError: they are no list and no mapping.
    """
    try:
        payload = message.payload
    except Exception:  # noqa: BLE001 - of what cannot be decoded Celery itself tells
        return
    match payload:
        case [list() | tuple(), dict(), *_] | dict():  # its second protocol, and its first
            return
        case _:
            raise TypeError("arguments that are no arguments")


class TolerantConsumer(Consumer):
    """Celery's consumer, which rejects what its task handlers cannot read."""

    app: Any
    connection_errors: tuple[type[Exception], ...]
    task_consumer: Any

    def create_task_handler(self, *args: Any) -> Any:
        """Return Celery's handler of one message, made safe."""
        handle = super().create_task_handler(*args)

        def handle_or_reject(message: Any) -> Any:
            self.app.consumption.note_taken()
            try:
                _check_arguments(message)
                return handle(message)
            except _UNREADABLE as error:
                _tell(error)
                message.reject_log_error(logger, self.connection_errors)

        return handle_or_reject

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Drop it, as Celery does; the attempt of another version's step is rung again soon.

        That needs a free thread of a worker that runs steps itself: a prefork parent asks no
        database, and there, or while all are at work, this ring is missed later.
        """
        super().on_unknown_task(body, message, exc)
        runtime = self.app.runtime.built
        queue = (message.delivery_info or {}).get("routing_key")
        address = address_of(message.headers.get("task"), queue)
        if runtime is not None and address is not None:
            runtime.slots.start(lambda: runtime.runner.disown(address, _arguments(message)))

    def stop(self) -> None:
        """Stop; what Redis hands to a read that is under way goes back to its queue."""
        channel: Any = getattr(self.task_consumer, "channel", None)
        super().stop()
        if getattr(channel, "_in_poll", None):
            with suppress(Empty, *self.connection_errors):
                channel._brpop_read()  # noqa: SLF001 - as kombu itself does when it closes


def _arguments(message: Any) -> Mapping[str, Any]:
    try:
        arguments = message.payload[1]
    except (*_UNREADABLE, KombuError) as error:
        _tell(error)
        return {}
    return arguments if isinstance(arguments, Mapping) else {}


class _QoS(redis.QoS):
    """What was fetched and not yet acknowledged; an answer that fails holds no place for ever.

    While all places are taken kombu does not even watch the connection that fetches: a worker that
    lost its places to a broker that was away would never notice that it has come back. What Redis
    has not heard is delivered again, and is a stale message then.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)
        except Exception:
            self._free(delivery_tag)
            raise

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        try:
            super().reject(delivery_tag, requeue)
        except Exception:
            self._free(delivery_tag)
            raise

    def _free(self, delivery_tag: str) -> None:
        virtual.QoS.ack(self, delivery_tag)


class _Channel(redis.Channel):
    QoS = _QoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except _UNREADABLE as error:
            _tell(error)
            return True


class _Transport(redis.Transport):
    Channel = _Channel


class _Connection(Connection):
    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        return super().ensure_connection(*args, **{"interval_max": RECONNECT_SECONDS, **options})

    def get_transport_cls(self) -> Any:
        found = super().get_transport_cls()
        return _Transport if found is redis.Transport else found


class TolerantAMQP(AMQP):
    """Celery's view of a broker, by connections that survive what is on it."""

    Connection = _Connection
