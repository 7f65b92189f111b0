"""Our Celery app in the company of others, and how little it costs to import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker_processes import ROOT
from workers.settings import Settings
from workers.worker import worker_argv

BESIDE_ANOTHER = """
import json
from celery import Celery, current_app, signals
theirs = Celery("theirs", broker="memory://")
@theirs.task(name="theirs.task")
def task(): ...
theirs.finalize()
before = {**theirs.conf}
receivers = len(signals.setup_logging.receivers)
from workers.celery import app
app.finalize()
print(json.dumps({
    "current": current_app.main,
    "their_tasks": sorted(each for each in theirs.tasks if not each.startswith("celery.")),
    "their_settings_changed": {**theirs.conf} != before,
    "logging_taken_over": len(signals.setup_logging.receivers) != receivers,
}))
"""

FRESH = """
import json, sys
import workers
print(json.dumps(sorted({each.partition(".")[0] for each in sys.modules})))
"""


def _run(script: str, **variables: str) -> object:
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "AMENDS_SAGAS": "tests.sagas_for_workers", **variables},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def test_our_app_leaves_another_app_of_the_process_alone() -> None:
    assert _run(BESIDE_ANOTHER) == {
        "current": "theirs",
        "their_tasks": ["theirs.task"],
        "their_settings_changed": False,
        "logging_taken_over": False,
    }


def test_importing_workers_imports_neither_celery_nor_a_driver() -> None:
    modules = _run(FRESH)

    assert isinstance(modules, list)
    assert not {"celery", "kombu", "redis", "psycopg", "sqlalchemy", "pydantic"} & set(modules)


def test_the_app_is_built_without_any_server(tmp_path: Path) -> None:
    names = _run(
        "import json\n"
        "from workers.celery import app\n"
        "app.finalize()\n"
        "print(json.dumps(list(app.tasks)))",
        AMENDS_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none",
        AMENDS_BROKER_URL="redis://127.0.0.1:1",
    )

    assert isinstance(names, list)
    assert {
        "amends.start",
        "inline_trip.flight",
        "inline_trip.flight.compensate",
        "checkout.authorize_payment",
    } <= set(names)


def test_the_worker_s_command_line_is_celery_s_own() -> None:
    settings = Settings.load(
        database_url="postgresql://h/d", broker_url="redis://h", queues=("a", "b"), concurrency=3
    )

    argv = worker_argv(settings, pool="prefork", name="pay@%h")

    assert argv[:5] == [sys.executable, "-m", "celery", "-A", "workers"]
    command = " ".join(argv)
    assert "worker --pool prefork --concurrency 3 --queues a,b --hostname pay@%h" in command


@pytest.mark.parametrize(("pool", "shown"), [("prefork", "(prefork)"), ("threads", "(thread)")])
def test_the_pool_of_the_command_line_comes_before_the_settings(pool: str, shown: str) -> None:
    other = {"prefork": "threads", "threads": "prefork"}[pool]
    script = f"""
import json
from celery.bin.celery import celery
from celery.apps.worker import Worker
def show(self):
    print(json.dumps(self.startup_info(artlines=False)))
    raise SystemExit(0)
Worker.start = show
celery(["-A", "workers", "worker", "-P", "{pool}"], standalone_mode=False)
"""
    assert shown in str(
        _run(script, AMENDS_POOL=other, AMENDS_BROKER_URL="redis://h", PYTHONWARNINGS="ignore")
    )
