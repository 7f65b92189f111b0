"""``make mutants``: take each protection out, one at a time, and see its test fail.

A mutant is an entry of a ``*.toml`` beside this file::

    [[mutant]]
    name = "spares-only-the-effect-that-counted"
    protects = "A second effect is undone by its own step"
    file = "orchestrator/folding.py"
    before = '''source text that occurs exactly once'''
    after = '''the same without the protection'''
    test = "tests/unit/test_folding.py::test_a_second_effect_is_undone"

It is *killed* when the test fails on a copy of the tree with that text exchanged, and passes
without the exchange. Everything else is a failure: a mutant that survives, a text that is not there
any more, a test that cannot run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parents[2]
TEST_SECONDS = 300
TESTS_FAILED = 1
"""pytest exits with this when tests ran and some failed, not when a module does not import."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One protection, how to take it out, and the test that must notice."""

    name: str
    protects: str
    file: str
    before: str
    after: str
    test: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a mutant; `why` is empty when it was killed."""

    mutant: Mutant
    why: str
    seconds: float


def main() -> int:
    """Judge every mutant, print one line each and the verdict; 1 if one was not killed."""
    arguments = _arguments()
    mutants = [each for each in load() if not arguments.only or arguments.only in each.name]
    if not mutants:
        print("no mutant of that name")
        return 1
    broken = _failing_unmutated(mutants)
    verdicts = []
    with _copies(arguments.jobs) as copies, ThreadPoolExecutor(arguments.jobs) as pool:
        for each in pool.map(lambda mutant: _judge(mutant, copies, broken), mutants):
            verdicts.append(each)
            told = "killed  " if not each.why else "SURVIVED"
            print(f"{told} {each.seconds:6.1f} s  {each.mutant.name}  {each.why}", flush=True)
    alive = [each for each in verdicts if each.why]
    print(f"{len(verdicts)} mutants, {len(verdicts) - len(alive)} killed, {len(alive)} not")
    return 1 if alive else 0


def load() -> list[Mutant]:
    """Return all mutants, by file and in the order they are written down."""
    return [
        Mutant(**entry)
        for path in sorted(Path(__file__).parent.glob("*.toml"))
        for entry in tomllib.loads(path.read_text())["mutant"]
    ]


def mutated(mutant: Mutant) -> str:
    """Return the mutant's file with the protection taken out.

    Raises:
        ValueError: the text to be exchanged does not occur exactly once.
    """
    text = (ROOT / mutant.file).read_text()
    count = text.count(mutant.before)
    if count != 1:
        raise ValueError(f"its text occurs {count} times in {mutant.file}, not once")
    return text.replace(mutant.before, mutant.after)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--only", help="judge mutants whose name contains this")
    parser.add_argument("--jobs", type=int, default=2, help="judge so many at once")
    return parser.parse_args()


def _failing_unmutated(mutants: Sequence[Mutant]) -> set[str]:
    """The tests that fail with every protection in place; all in one run, singly if any does."""
    tests = sorted({each.test for each in mutants})
    if _pytest(ROOT, tests) == 0:
        return set()
    return {each for each in tests if _pytest(ROOT, [each]) != 0}


def _judge(mutant: Mutant, copies: SimpleQueue[Path], broken: set[str]) -> Verdict:
    began = time.monotonic()
    copy = copies.get()
    try:
        why = _why_alive(mutant, copy) if mutant.test not in broken else "its test fails unmutated"
    finally:
        copies.put(copy)
    return Verdict(mutant=mutant, why=why, seconds=time.monotonic() - began)


def _why_alive(mutant: Mutant, copy: Path) -> str:
    try:
        text = mutated(mutant)
    except (ValueError, OSError) as error:
        return str(error)
    path = copy / mutant.file
    original = path.read_text()
    path.write_text(text)
    try:
        code = _pytest(copy, [mutant.test])
    except subprocess.TimeoutExpired:
        return f"its test did not end within {TEST_SECONDS} s"
    finally:
        path.write_text(original)
    if code == TESTS_FAILED:
        return ""
    return "its test passes without it" if code == 0 else f"its test did not run (pytest: {code})"


def _pytest(directory: Path, tests: Sequence[str]) -> int:
    """Run tests of the tree in `directory`, whose packages go before the installed ones."""
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1"}
    limit = TEST_SECONDS * max(1, len(tests))
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, timeout=limit, check=False
    ).returncode


@contextmanager
def _copies(count: int) -> Iterator[SimpleQueue[Path]]:
    """Copies of the working tree, as git knows it; one for each mutant that is judged at once."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    copies: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="amends-mutants-") as parent:
        for number in range(count):
            copy = Path(parent) / str(number)
            for name in listed.stdout.splitlines():
                if (ROOT / name).is_file():
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / name, copy / name)
            copies.put(copy)
        yield copies


if __name__ == "__main__":
    sys.exit(main())
