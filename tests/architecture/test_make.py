"""`make` explains itself, and CI runs what a developer runs."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
TARGETS = set(
    re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
)


def test_make_alone_explains_every_target() -> None:
    printed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert set(re.findall(r"^  make ([a-z-]+) +\S", printed, re.MULTILINE)) == TARGETS


def test_ci_runs_targets_of_the_makefile() -> None:
    script = (ROOT / ".ci/run").read_text()

    (listed,) = re.findall(r"^for target in (.+); do$", script, re.MULTILINE)
    assert listed.split() == ["test", "check", "advice", "chaos-short"]
    assert set(listed.split()) <= TARGETS
