"""The Celery app of a worker: Celery's own, with this project's settings, tasks and life."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from celery import Celery
from kombu.utils.objects import cached_property

from orchestrator.definition import DEFAULT_QUEUE
from workers import tasks
from workers.bootstrap import definitions
from workers.broker import broker_configuration, queue_named, worker_configuration
from workers.consumption import Consumption
from workers.draining import Drain
from workers.lifecycle import Lifecycle
from workers.pulse import Pulses
from workers.runtime import PerProcess, Runtime
from workers.settings import Settings

CONTRIBUTIONS = ("recovery.beat",)
"""Modules that add to the app when a worker or beat starts; named, because imports point left."""


class SagaApp(Celery):
    """A Celery app that runs sagas.

    It is never made the process's current or default app by being imported: in a program that has
    a Celery app of its own, this one stands beside it.

    Args:
        settings: frozen; a worker replaces them by what its command line chose.
    """

    amqp_cls = "workers.unreadable:TolerantAMQP"
    log_cls = "workers.telemetry:Logging"

    def __init__(self, settings: Settings) -> None:
        super().__init__("amends", set_as_current=False)
        self.settings = settings
        self.definitions = definitions(settings)
        self.drain = Drain()
        self.consumption = Consumption()
        self.pulses = Pulses()
        self.runtime = PerProcess(
            lambda: Runtime(
                self,
                settings=self.settings,
                definitions=self.definitions,
                drain=self.drain,
                consumption=self.consumption,
            )
        )
        named = dict.fromkeys((*tasks.queues(self.definitions), *settings.queues))
        self.conf.update(
            **broker_configuration(settings),
            **worker_configuration(settings),
            worker_consumer="workers.unreadable:TolerantConsumer",
            task_default_queue=DEFAULT_QUEUE,
            task_queues=[queue_named(each, settings) for each in named],
            imports=[each for each in CONTRIBUTIONS if _exists(each)],
        )
        tasks.register(self, self.definitions, self.runtime, self.drain)
        self.steps["worker"].add(Lifecycle)

    @cached_property
    def Worker(self) -> Any:  # noqa: N802 - Celery's name
        """The worker program; Celery's command line starts this."""
        by_name: Any = "workers.program:Program"
        return self.subclass_with_self(by_name)


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
