"""The plain Celery app beside which sagas are measured: a chain of four tasks, not durable."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

app = Celery("chain", broker=os.environ.get("CHAIN_BROKER_URL"), set_as_current=False)
app.conf.update(
    task_default_queue="chain",
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    broker_transport_options={"global_keyprefix": "chain:"},
)


@app.task(name="chain.step")
def step(number: int, counter: str | None = None) -> int:
    """Pass the number on; the last of a chain counts that it arrived."""
    if counter is not None:
        with app.connection_for_write() as connection:
            channel: Any = connection.default_channel
            channel.client.incr(counter)
    return number
