"""The scenarios, as somebody runs them: on a real deployment, read from the command's JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recovery.demo.scenarios.playing import SCENARIOS
from recovery.demo.scenarios.table import Place
from tests.acceptance.test_demo import DEMO_SECONDS, environment, scratch

__all__ = ["scratch"]

ARGUMENTS = ["demo", "--scenarios", "--json"]


def run(program: str, directory: Path, scratch: Path) -> tuple[int, list[dict[str, Any]]]:
    """Run the command as the module `program`; return its exit code and the rows of its table."""
    answer = subprocess.run(
        [sys.executable, "-P", "-m", program, *ARGUMENTS],
        cwd=directory,
        env={**environment(), "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEMO_SECONDS,
    )
    told = [json.loads(line) for line in answer.stdout.splitlines()]
    rows = [each for each in told if each["event"] == "scenario"]
    assert len(rows) == len(SCENARIOS), answer.stdout[-5000:] + answer.stderr
    return answer.returncode, rows


@pytest.mark.timeout(DEMO_SECONDS + 30)
def test_every_scenario_leaves_what_was_promised_in_every_place(
    tmp_path: Path, scratch: Path
) -> None:
    code, rows = run("recovery.cli", tmp_path, scratch)

    assert [(each["scenario"], each["title"]) for each in rows] == [
        (number, each.title) for number, each in enumerate(SCENARIOS, start=1)
    ]
    for row in rows:
        assert set(row["cells"]) == set(Place)
        for cell in row["cells"].values():
            assert cell["expectations"]
            assert [each for each in cell["expectations"] if each["seen"] != each["expected"]] == []
            assert cell["ok"]
    assert code == 0


@pytest.mark.timeout(DEMO_SECONDS + 30)
def test_in_a_wrong_world_its_cells_are_red_and_the_command_fails(
    tmp_path: Path, scratch: Path
) -> None:
    code, rows = run("tests.acceptance.wrong_world", tmp_path, scratch)

    red = [
        (row["scenario"], place)
        for row in rows
        for place, cell in row["cells"].items()
        if not cell["ok"]
    ]
    assert red == [
        (1, Place.GATEWAY),
        *((6, each) for each in (Place.SAGA_LOG, Place.GATEWAY, Place.LOGS)),
        (7, Place.LOGS),
    ]  # the reconciliation finds the second charge too
    assert code == 1
