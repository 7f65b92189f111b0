"""The locks install anywhere, agree with each other, and cover what pyproject.toml declares."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE))


def names(requirements: list[str]) -> set[str]:
    """The distributions named; the project itself stands there for another extra of its own."""
    named: set[str] = {canonicalize_name(Requirement(each).name) for each in requirements}
    return named - {PROJECT["project"]["name"]}


def test_there_are_three_locks() -> None:
    assert [lock.stem for lock in LOCKS] == ["dev", "image", "run"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_names_no_host_no_index_and_no_path(lock: Path) -> None:
    assert not re.search(r"://|^-|^/|^\.|\s/| @ ", lock.read_text(), re.MULTILINE)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_pin_has_hashes(lock: Path) -> None:
    pinned = [
        block for block in re.split(r"^(?=\S)", lock.read_text(), flags=re.MULTILINE) if block
    ]
    assert pinned
    assert all("--hash=sha256:" in block for block in pinned)


@pytest.mark.parametrize("name", ["run", "image"])
def test_the_development_lock_holds_every_other_lock(name: str) -> None:
    assert pins(ROOT / f"requirements/{name}.txt").items() <= (
        pins(ROOT / "requirements/dev.txt").items()
    )


def test_the_locks_cover_every_declared_dependency() -> None:
    core = names(PROJECT["project"]["dependencies"])
    extras = {
        key: names(value) for key, value in PROJECT["project"]["optional-dependencies"].items()
    }
    backend = names(PROJECT["build-system"]["requires"])
    group = [each for each in PROJECT["dependency-groups"]["dev"] if isinstance(each, str)]

    assert core | backend | extras["local"] | extras["sandbox"] <= (
        pins(ROOT / "requirements/run.txt").keys()
    )
    assert core | backend | extras["sandbox"] <= pins(ROOT / "requirements/image.txt").keys()
    assert set.union(core, backend, names(group), *extras.values()) <= (
        pins(ROOT / "requirements/dev.txt").keys()
    )
