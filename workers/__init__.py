"""Who does the work, and under which limits: Celery, Redis, settings, and the worker process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.client import SagaClient
    from workers.settings import Settings


def connect(settings: Settings | None = None) -> SagaClient:
    """Return a client of the engine that the environment describes; see `workers.bootstrap`."""
    from workers import bootstrap  # noqa: PLC0415 - `import workers` stays cheap

    return bootstrap.connect(settings)
