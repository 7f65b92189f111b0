"""PostgreSQL refuses to run as root; here is how it is run all the same.

An ordinary user simply starts it. Root tries, in this order, and takes the first way under which
`postgres --version` answers:

1. a user namespace in which root is seen as uid 1000. No file changes its owner, and programs and
   data may lie under a home directory that only root may enter;
2. `nobody`, keeping the one capability to pass closed directories (containers often forbid
   namespaces, but not this);
3. plain `nobody`; where the programs are out of its reach, with a copy of them beside the data.

As nobody the data must belong to nobody. No user is created and no parent directory is opened.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from workers.local_servers.errors import LocalServerError

_ROOT, _NOBODY = 0, 65534
_PROBE_SECONDS = 30
_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
_CAPABILITY = (
    "setpriv",
    f"--reuid={_NOBODY}",
    f"--regid={_NOBODY}",
    "--clear-groups",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """A way to run PostgreSQL's programs; `data_owner` is who must own what they write."""

    programs: Path
    data_owner: int
    prefix: tuple[str, ...] = ()
    user: int | None = None
    version: int = 0

    def command(self, program: str, *arguments: str) -> list[str]:
        return [*self.prefix, str(self.programs / program), *arguments]

    def give(self, path: Path) -> None:
        """Make a file, or a directory with all in it, belong to `data_owner`."""
        if os.geteuid() != _ROOT or path.stat().st_uid == self.data_owner:
            return  # where it is wrong and we may not mend it, PostgreSQL says so
        for inner in path.rglob("*"):
            os.chown(inner, self.data_owner, self.data_owner, follow_symlinks=False)
        os.chown(path, self.data_owner, self.data_owner)


def choose_launcher(programs: Path, directory: Path) -> Launcher:
    """The first way that works here to run `programs` on data in `directory`.

    Raises:
        LocalServerError: none does; the message names the fixes.
    """
    for way in _ways(programs, directory):
        version = _version(way)
        if version is not None:
            return replace(way, version=version)
    raise LocalServerError(_no_way(programs, directory), server="PostgreSQL")


def _ways(programs: Path, directory: Path) -> Iterator[Launcher]:
    if os.geteuid() != _ROOT:
        yield Launcher(programs=programs, data_owner=os.geteuid())
        return
    yield Launcher(programs=programs, data_owner=_ROOT, prefix=_NAMESPACE)
    yield Launcher(programs=programs, data_owner=_NOBODY, prefix=_CAPABILITY)
    if all(path.stat().st_mode & 0o001 for path in (directory, *directory.parents)):
        yield Launcher(programs=programs, data_owner=_NOBODY, user=_NOBODY)
        copied = _copy(programs, directory / "programs")
        yield Launcher(programs=copied, data_owner=_NOBODY, user=_NOBODY)


def _version(way: Launcher) -> int | None:
    """The major version, if `postgres` can be run this way."""
    try:
        told = subprocess.run(  # noqa: S603 - programs that discovery has found
            way.command("postgres", "--version"),
            capture_output=True,
            text=True,
            check=False,
            user=way.user,
            group=way.user,
            extra_groups=None if way.user is None else [],
            timeout=_PROBE_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):  # no unshare here, or no right to use it
        return None
    version = re.search(r"\) (\d+)", told.stdout)
    return int(version.group(1)) if told.returncode == 0 and version else None


def _copy(programs: Path, to: Path) -> Path:
    """The programs once more, readable by all, with the libraries that the wheel keeps aside."""
    installation = programs.parent
    copied = to / installation.parent.name / installation.name / programs.name
    if not copied.exists():
        draft = to.with_name(f"{to.name}.new")
        shutil.rmtree(draft, ignore_errors=True)
        package = installation.parent
        shutil.copytree(installation, draft / package.name / installation.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, draft / libraries.name)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | (0o055 if mode & 0o100 else 0o044))
        draft.replace(to)
    return copied


def _no_way(programs: Path, directory: Path) -> str:
    if os.geteuid() == _ROOT:
        return (
            f"PostgreSQL refuses to run as root, and neither a user namespace nor the user nobody "
            f"works for {programs} and {directory}. Run as an ordinary user, use a directory "
            f"that every user may enter, or give AMENDS_DATABASE_URL."
        )
    return (
        f"{programs / 'postgres'} cannot be run here. Install it anew "
        f'(pip install --force-reinstall "amends[local]") or give AMENDS_DATABASE_URL.'
    )
