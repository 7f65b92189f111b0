"""The archive: whatever is gone was on disk before, also when the pruner is killed anywhere."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.entries import Recorded, SagaCompleted, decode
from orchestrator.errors import LogUnavailableError
from orchestrator.folding import replay
from orchestrator.state import State
from orchestrator.storage.database import Database
from orchestrator.storage.retention import Retention
from recovery.archive import Archive
from recovery.pruner import PruneReport
from tests.ended_sagas import SHOP, old, plant, prune, rows
from tests.integration.engine import Engine, answer_lost

ROOT = Path(__file__).parents[2]


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


@pytest.fixture
def retention(engine: Engine) -> Retention:
    return Retention(Database(engine.pool))


@pytest.mark.parametrize("name", ["sagas.jsonl", "sagas.jsonl.gz"])
def test_the_archive_has_everything_needed_to_read_a_saga_again(
    engine: Engine, retention: Retention, tmp_path: Path, name: str
) -> None:
    plant(engine, 25)
    saga_id = old(engine, "real")
    before = engine.coordinator.log.entries(saga_id)
    with Archive(tmp_path / name) as archive:
        report = prune(retention, archive=archive, batch=10)
    assert report.archived == report.pruned.total() == 26
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600

    archived = {each["saga"]["key"]: each for each in lines(tmp_path / name)}
    assert len(archived) == 26
    kept = archived["real"]
    assert kept["saga"]["id"] == str(saga_id)
    assert kept["saga"]["attributes"] == {"amount": 1}
    assert kept["signals"] == []
    log = [
        Recorded(
            seq=each["seq"], at=before[each["seq"] - 1].at, entry=decode(each["kind"], each["data"])
        )
        for each in kept["entries"]
    ]
    assert log == before
    assert replay(log).phase is State.COMPLETED
    assert isinstance(log[-1].entry, SagaCompleted)


def lines(path: Path) -> list[dict[str, Any]]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt") as file:
        return [json.loads(line) for line in file]


def test_an_archive_is_never_written_into_a_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "sagas.jsonl").write_text("half a li")
    with pytest.raises(FileExistsError):
        Archive(tmp_path / "sagas.jsonl")


def test_an_archive_of_nothing_leaves_no_file(tmp_path: Path) -> None:
    with Archive(tmp_path / "sagas.jsonl"):
        pass
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from datetime import timedelta
from pathlib import Path
from orchestrator.seam import intercepted
from orchestrator.state import TERMINAL
from orchestrator.storage.database import Database, create_engine
from orchestrator.storage.retention import Retention
from recovery.archive import Archive
from recovery.pruner import Pruner

url, path, when, left = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])

def interceptor(name, action):
    global left
    before, _, point = when.partition(" ")
    if name == point:
        left -= 1
    if name == point and left == 0:
        if before == "after":
            action()
        os.kill(os.getpid(), signal.SIGKILL)
    return action()

with intercepted(interceptor), Archive(path) as archive:
    Pruner(Retention(Database(create_engine(url))), older_than=timedelta(days=90),
        archive=archive).run(sorted(TERMINAL), batch=10)
"""


@pytest.mark.parametrize("name", ["sagas.jsonl", "sagas.jsonl.gz"])
@pytest.mark.parametrize(
    ("when", "count"),
    [
        ("before archive.sync", 2),
        ("after archive.sync", 2),
        ("before prune.commit", 3),
        ("after prune.commit", 3),
        ("after prune.commit", 4),
    ],
)
def test_killed_anywhere_everything_that_is_gone_was_archived(
    engine: Engine,
    retention: Retention,
    database: str,
    tmp_path: Path,
    name: str,
    when: str,
    count: int,
) -> None:
    plant(engine, 45)
    keys = {key for (key,) in engine.sql("SELECT key FROM amends.saga")}
    first, second = tmp_path / f"first-{name}", tmp_path / f"second-{name}"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, database, str(first), when, str(count)],
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    left = {key for (key,) in engine.sql("SELECT key FROM amends.saga")}
    archived = {each["saga"]["key"] for each in lines(first)}
    assert len(archived) in (10, 20)
    assert keys - left <= archived

    with Archive(second) as archive:
        assert prune(retention, archive=archive, batch=10).pruned.total() == len(left)
    assert rows(engine) == (0, 0)
    assert archived | {each["saga"]["key"] for each in lines(second)} == keys


@pytest.mark.parametrize("applied", [True, False])
def test_a_lost_answer_of_a_pruning_is_no_loss(
    engine: Engine, retention: Retention, *, applied: bool
) -> None:
    plant(engine, 5)
    with answer_lost("prune.commit", applied=applied), pytest.raises(LogUnavailableError):
        prune(retention)
    assert prune(retention).pruned.total() == 5


def test_many_pruners_at_once_prune_each_saga_once(
    engine: Engine, retention: Retention, tmp_path: Path
) -> None:
    total = 400
    plant(engine, total)
    reports: list[PruneReport] = []

    def run(number: int) -> None:
        with Archive(tmp_path / f"{number}.jsonl") as archive:
            reports.append(prune(retention, archive=archive, batch=20))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert sum(each.pruned.total() for each in reports) + prune(retention).pruned.total() == total
    assert rows(engine) == (0, 0)
    archived = {each["saga"]["key"] for path in tmp_path.iterdir() for each in lines(path)}
    assert len(archived) == total
