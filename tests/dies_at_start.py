"""A module that a prefork worker imports in a test: the first child dies as it starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import signals

from tests.sagas_for_workers import INLINE

__all__ = ["INLINE"]


def _die_once(**_: Any) -> None:
    try:
        Path(os.environ["AMENDS_TEST_DIED"]).touch(exist_ok=False)
    except FileExistsError:
        return
    os._exit(1)


signals.worker_process_init.connect(_die_once, weak=False)
