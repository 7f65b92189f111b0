"""The session of docs/failed-compensation.md, typed line by line on a real deployment.

`…` on the page stands for anything within a line; lines between those that it shows may be missing.
A command that is refused because it comes too early is typed again when it is possible, as the page
says to do.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from orchestrator.state import State
from recovery.isolation import ROOT
from tests.acceptance.asked_checkouts import ASKED
from tests.deployment import Deployment

PAGE = Path(__file__).parents[2] / "docs/failed-compensation.md"
EARLY = re.compile(r"possible from (\S+) on")


BY_HAND = {"every effect has a saga", "one effect per step", "money is conserved"}
"""What the two refunds that no saga made look like to the judge; the log itself is in order."""


class Typed(NamedTuple):
    """A command of the page, and the lines that it shows below it."""

    command: str
    shown: list[str]


def session() -> Iterator[Typed]:
    """Every command of the page's console blocks, in order."""
    for body in re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, *shown = part.rstrip("\n").split("\n")
            yield Typed(command, shown)


class Shell:
    """One bash that keeps its variables from one command to the next."""

    def __init__(self, deployment: Deployment, directory: Path) -> None:
        kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        settings = {f"AMENDS_{k.upper()}": str(v) for k, v in deployment.variables.items()}
        commands = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {**kept, **settings, "PATH": commands, "PYTHONPATH": str(ROOT)}
        self._state = directory / "variables"
        self._state.touch()

    def types(self, command: str) -> tuple[int, list[str]]:
        """Run a command; its exit code and everything that it printed."""
        script = f"set -a; . {self._state}; set +a\n{command}\ncode=$?\n"
        script += f"declare -p | grep -E ' (PAYMENT|REFUND)=' > {self._state}\nexit $code"
        ran = subprocess.run(
            ["bash", "-c", script],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=150,
            check=False,
        )
        return ran.returncode, ran.stdout.splitlines()


def plain(line: str) -> str:
    """A line with single spaces; the checkout of this test is that of the page, but for budgets."""
    return " ".join(line.replace(f"{ASKED}", "checkout v1").split())


def missing(shown: list[str], printed: list[str]) -> list[str]:
    """The first line of the page that was not printed, after those before it; or nothing."""
    rest = iter([plain(each) for each in printed])
    for line in shown:
        pattern = ".*".join(map(re.escape, plain(line).split("…")))
        if not any(re.fullmatch(pattern, each) for each in rest):
            return [line]
    return []


def test_the_page_is_what_happens(deployment: Deployment, tmp_path: Path) -> None:
    assert shutil.which("curl"), "the page uses curl: install it"
    deployment.definitions.append(ASKED)
    deployment.variables |= {"sweep_seconds": 0.5, "sagas": "tests.acceptance.asked_checkouts"}
    deployment.start_worker()
    shell = Shell(deployment, tmp_path)

    for typed in session():
        code, printed = shell.types(typed.command)
        early = EARLY.search("\n".join(printed))
        if code != 0 and early:
            possible = datetime.fromisoformat(early[1])
            time.sleep(max(0.0, (possible - datetime.now(UTC)).total_seconds()) + 0.5)
            code, printed = shell.types(typed.command)
        everything = "\n".join(printed)
        assert code == 0, f"$ {typed.command}\n{everything}"
        assert missing(typed.shown, printed) == [], f"$ {typed.command}\n{everything}"

    totals = deployment.judge.totals_of("A-1009")
    assert totals is not None
    assert totals.is_clean
    found = {each.partition(":")[0] for each in deployment.violations({State.COMPENSATED: 1})}
    assert found == BY_HAND


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        (["state compensated"], ["state failed_compensation"]),
        (["first", "second"], ["second", "first"]),
        (["EUR … taken"], ["EUR 1990 held"]),
    ],
)
def test_what_is_not_printed_is_missed(shown: list[str], printed: list[str]) -> None:
    assert missing(shown, printed) != []
