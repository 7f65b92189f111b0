"""Is this installation whole, and is it the one that runs?"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from recovery.doctor.findings import Finding, fail, ok, warn
from recovery.isolation import PACKAGES, ROOT, strangers
from workers.settings import Settings

OLDEST_PYTHON = (3, 11)


def python() -> Iterator[Finding]:
    """The interpreter is new enough."""
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        yield fail("python", found, "install Python 3.11 or newer")
    else:
        yield ok("python", found)


def packages() -> Iterator[Finding]:
    """What Amends needs is installed, in versions that it knows."""
    try:
        declared = [Requirement(each) for each in requires("amends") or ()]
    except PackageNotFoundError:
        yield fail("packages", "amends is not installed", "pip install amends")
        return
    needed = [each for each in declared if each.marker is None or each.marker.evaluate()]
    wrong = [
        f"{each.name} {found or 'is missing'} (wants {each.specifier})"
        for each in needed
        if not each.specifier.contains((found := _version(each.name)) or "0", prereleases=True)
    ]
    if wrong:
        yield fail("packages", "; ".join(wrong), "pip install --upgrade amends")
    else:
        yield ok("packages", f"amends {version('amends')}, {len(needed)} dependencies as declared")


def names() -> Iterator[Finding]:
    """The four package names are ours; they are common enough to be taken by something else."""
    strange = strangers()
    if strange:
        found = ", ".join(f"{name} is {place or 'nowhere'}" for name, place in strange.items())
        yield fail(
            "names",
            f"{found}, not in {ROOT}",
            "rename or move what hides it, or use a virtual environment for Amends alone",
        )
    else:
        yield ok("names", f"{', '.join(PACKAGES)} are those in {ROOT}")


def settings(known: Settings) -> Iterator[Finding]:
    """Everything that has no default is set."""
    wanted = {
        "AMENDS_DATABASE_URL": known.database_url,
        "AMENDS_BROKER_URL": known.broker_url,
    }
    missing = [name for name, value in wanted.items() if value is None]
    if missing:
        yield fail(
            "settings",
            f"not set: {', '.join(missing)}",
            "set them in the environment, in .env, or as files named by NAME_FILE",
        )
    elif not known.has_gateway:
        yield warn(
            "settings",
            "no gateway: the checkout cannot run here",
            "set AMENDS_GATEWAY_URL, or ignore this when you run only sagas of your own",
        )
    else:
        yield ok("settings", "database, broker and gateway are set")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
