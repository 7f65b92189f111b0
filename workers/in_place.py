"""Running a task here and now, as Celery would for a message: same tracer, signals and name."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.app.trace import build_tracer
from celery.utils import uuid as new_task_id

from orchestrator.storage.rows import AttemptId


def run_in_place(app: Celery, name: str, attempt: AttemptId) -> None:
    """Run the task `name` for `attempt` in this thread; inside a task, as its child."""
    task: Any = app.tasks[name]
    if task.__trace__ is None:
        task.__trace__ = build_tracer(name, task, app.loader, app=app)
    task_id = new_task_id()
    kwargs = {"saga_id": str(attempt.saga_id), "attempt": attempt.number}
    task.__trace__(task_id, (), kwargs, _request(app, task, task_id))


def _request(app: Celery, task: Any, task_id: str) -> dict[str, Any]:
    outer = app.current_worker_task
    parent = outer.request if outer is not None else None
    return {
        "id": task_id,
        "task": task.name,
        "root_id": (parent.root_id or parent.id) if parent is not None else task_id,
        "parent_id": parent.id if parent is not None else None,
        "correlation_id": task_id,
        "hostname": parent.hostname if parent is not None else None,
        "delivery_info": {"exchange": "", "routing_key": task.queue, "redelivered": False},
        "ignore_result": True,
        "is_eager": False,
        "retries": 0,
    }
