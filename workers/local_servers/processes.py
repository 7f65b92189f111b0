"""What runs under a process id, seen from outside: a pid alone is not an identity."""

import contextlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from shutil import which

_PROC = Path("/proc")
_STATE, _START_TICKS = 0, 19  # fields of /proc/PID/stat, counted after the command name


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process at one moment; `pid` with `started` names it for good, even after pid reuse."""

    pid: int
    name: str
    started: str
    is_zombie: bool
    arguments: tuple[str, ...]
    directory: Path | None  # None where the system does not tell


def observe(pid: int) -> Process | None:
    """The process under `pid`, or None. A zombie is returned as such: it runs nothing any more."""
    if pid <= 0:
        return None
    return _observe_proc(pid) if (_PROC / "self/stat").exists() else _observe_ps(pid)


def is_same(pid: int, started: str) -> bool:
    """Does the process that was seen under `pid`, started at `started`, still run?"""
    process = observe(pid)
    return process is not None and process.started == started and not process.is_zombie


def has_ended(pid: int, started: str) -> bool:
    """Is the process that was seen under `pid`, started at `started`, surely over?

    False in doubt: /proc may hide the processes of other users (``hidepid``); a signal tells of
    them all the same.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's, so somebody's
    try:
        seen = observe(pid)
    except OSError:
        return False
    return seen is not None and (seen.started != started or seen.is_zombie)


def reap(pid: int) -> None:
    """Collect a finished child, so that it leaves the process table. Others' children are left."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _observe_proc(pid: int) -> Process | None:
    entry = _PROC / str(pid)
    try:
        stat = (entry / "stat").read_text(errors="replace")
        arguments = (entry / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in parentheses and may itself hold blanks and parentheses.
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    fields = stat[stat.rindex(")") + 2 :].split()
    try:
        directory = (entry / "cwd").readlink()
    except OSError:  # another user's process, or one that has just ended
        directory = None
    return Process(
        pid=pid,
        name=name,
        started=fields[_START_TICKS],
        is_zombie=fields[_STATE] in "ZX",
        arguments=tuple(os.fsdecode(part) for part in arguments.split(b"\0") if part),
        directory=directory,
    )


def _observe_ps(pid: int) -> Process | None:
    """The same from `ps`, for systems without /proc (macOS)."""
    ps = which("ps", path="/bin:/usr/bin") or "ps"
    told = subprocess.run(  # noqa: S603 - a fixed command and an integer
        [ps, "-ww", "-o", "stat=,lstart=,command=", "-p", str(pid)],
        env={"LC_ALL": "C", "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )
    words = told.stdout.split()
    if told.returncode != 0 or len(words) < 7:  # noqa: PLR2004 - state, five words of time, command
        return None
    return Process(
        pid=pid,
        name=Path(words[6]).name,
        started=" ".join(words[1:6]),
        is_zombie=words[0].startswith("Z"),
        arguments=tuple(words[6:]),
        directory=None,
    )
