"""What a check found: fine, worth a look, or broken, with what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is; only `FAIL` makes the check-up fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check's answer; `hint` says what to do when it is not `OK`."""

    check: str
    verdict: Verdict
    found: str
    hint: str = ""


Check = Callable[[], Iterator[Finding]]


def ok(check: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(check=check, verdict=Verdict.OK, found=found)


def warn(check: str, found: str, hint: str) -> Finding:
    """Works, but somebody should look."""
    return Finding(check=check, verdict=Verdict.WARN, found=found, hint=hint)


def fail(check: str, found: str, hint: str) -> Finding:
    """Does not work."""
    return Finding(check=check, verdict=Verdict.FAIL, found=found, hint=hint)


def skipped(check: str, because: str) -> Finding:
    """Could not be looked at, because something before it failed."""
    return Finding(check=check, verdict=Verdict.SKIPPED, found=because)
