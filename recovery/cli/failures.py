"""Exit codes, and which error ends with which: one line on stderr that says what to do.

0  ok                        4  not allowed
1  failure                   5  conflict: the wrong state, or a key in use
2  usage                     6  a server that is needed cannot be reached
3  not found               130  interrupted
"""

from __future__ import annotations

import sys
import traceback
from enum import IntEnum
from typing import IO, Any

import click
import redis.exceptions
from kombu.exceptions import OperationalError as BrokerError

from orchestrator.errors import (
    AmendsError,
    ConcurrentStartError,
    DefinitionChangedError,
    IdempotencyConflictError,
    InvalidKeyError,
    PayloadError,
    SagaNotFoundError,
    StateConflictError,
    UnknownDefinitionError,
)
from orchestrator.storage.complaints import Complaint, complaint_of
from workers.settings import SettingsError


class ExitCode(IntEnum):
    """What the shell sees."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    CONFLICT = 5
    UNREACHABLE = 6
    INTERRUPTED = 130


class Failure(click.ClickException):
    """The command did not do what it was asked for; the message says what to do next."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILURE) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]  # a constant of click's classes

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the line."""
        click.echo(f"amends: {self.message}", file=file or sys.stderr)


CODES: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (SagaNotFoundError, ExitCode.NOT_FOUND),
    (UnknownDefinitionError, ExitCode.NOT_FOUND),
    (IdempotencyConflictError, ExitCode.CONFLICT),
    (StateConflictError, ExitCode.CONFLICT),
    (ConcurrentStartError, ExitCode.CONFLICT),
    (DefinitionChangedError, ExitCode.CONFLICT),
    (PayloadError, ExitCode.USAGE),
    (InvalidKeyError, ExitCode.USAGE),
    (SettingsError, ExitCode.USAGE),
    (BrokerError, ExitCode.UNREACHABLE),
    (redis.exceptions.ConnectionError, ExitCode.UNREACHABLE),
    (PermissionError, ExitCode.NOT_ALLOWED),
)

_COMPLAINTS: dict[Complaint, tuple[str, ExitCode]] = {
    Complaint.UNREACHABLE: (
        "{error}; is Postgres up, and is AMENDS_DATABASE_URL right?",
        ExitCode.UNREACHABLE,
    ),
    Complaint.NOT_MIGRATED: (
        "the database lacks tables of this version: run `amends migrate --checkout`",
        ExitCode.FAILURE,
    ),
    Complaint.NOT_ALLOWED: (
        "{error}; connect as a role with that right, or have one granted",
        ExitCode.NOT_ALLOWED,
    ),
}


def failure_of(error: Exception) -> Failure:
    """Return the one line and the exit code that `error` ends the command with."""
    complaint = complaint_of(error)
    if complaint is not None:
        message, code = _COMPLAINTS[complaint]
        return Failure(message.format(error=brief(error)), code)
    for kind, code in CODES:
        if isinstance(error, kind):
            return Failure(brief(error), code)
    if isinstance(error, AmendsError | OSError):
        return Failure(brief(error))
    where = traceback.extract_tb(error.__traceback__)[-1]
    return Failure(
        f"unexpected {type(error).__name__} in {where.name}: {brief(error)} "
        "(`--debug` shows the traceback)"
    )


def brief(error: BaseException) -> str:
    """Return an error's first line; SQLAlchemy's wrapper says less than what it wraps."""
    inner = getattr(error, "orig", None) or error
    lines = str(inner).strip().splitlines()
    return lines[0] if lines else type(inner).__name__
