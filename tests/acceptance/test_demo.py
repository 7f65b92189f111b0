"""The demo, as somebody runs it who has just installed it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.worker_processes import until

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-P", "-m", "recovery.cli", "demo", "--fast", "--json"]
DEMO_SECONDS = 150
"""Patience on a loaded machine; by itself it takes a tenth of that."""


def environment() -> dict[str, str]:
    """Nothing set: no URL of ours, and a mark by which every descendant is known."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    return {**kept, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def marked(mark: str) -> list[psutil.Process]:
    """The processes that carry the mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DEMO_MARK") == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where the demo keeps its files; root's PostgreSQL runs as nobody and must get in."""
    path = Path(tempfile.mkdtemp(prefix="amends-scratch-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.mark.timeout(DEMO_SECONDS + 30)
def test_the_demo_ends_well_and_leaves_nothing_behind(tmp_path: Path, scratch: Path) -> None:
    mark = tmp_path.name
    answer = subprocess.run(
        COMMAND,
        cwd=tmp_path,
        env={**environment(), "DEMO_MARK": mark, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEMO_SECONDS,
    )

    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr
    told = lines_of(answer.stdout)
    assert {each["scene"] for each in told} == set("0abcdef")
    killed = next(each for each in told if "charges" in each)
    assert (killed["requests"], killed["keys"], killed["charges"]) == (2, 1, 1)
    assert all(each.get("ok", True) for each in told)
    assert marked(mark) == []
    assert [*tmp_path.iterdir(), *scratch.iterdir()] == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_demo_leaves_nothing_behind(
    tmp_path: Path, scratch: Path, number: signal.Signals
) -> None:
    mark = f"{tmp_path.name}-{number}"
    with subprocess.Popen(
        COMMAND,
        cwd=tmp_path,
        env={**environment(), "DEMO_MARK": mark, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if json.loads(line)["scene"] == "b":
                break
        demo.send_signal(number)
        demo.communicate(timeout=60)
        assert demo.returncode != 0

    until(lambda: not marked(mark), what="the end of every process")
    until(lambda: not any(scratch.iterdir()), what="the end of every file")
