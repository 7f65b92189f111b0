"""Exit codes, and which error ends with which: one line on stderr that says what to do."""

from __future__ import annotations

import sys
import traceback
from enum import IntEnum
from typing import IO, Any, Self

import click
import redis.exceptions
from kombu.exceptions import OperationalError as BrokerError

from orchestrator.errors import (
    AmendsError,
    ConcurrentStartError,
    IdempotencyConflictError,
    InstallationError,
    InvalidKeyError,
    PayloadError,
    SagaLockedError,
    SagaNotFoundError,
    StateConflictError,
    UnknownDefinitionError,
)
from orchestrator.idempotency_record import SettlementRefusedError
from orchestrator.redaction import redact
from orchestrator.storage.complaints import Complaint, complaint_of
from recovery.operator.refusals import UnknownStepError
from workers.settings import SettingsError


class ExitCode(IntEnum):
    """What the shell sees. `meaning` is how help and documentation put it."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        """Make a member that is the number `code`."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    OK = 0, "ok"
    FAILURE = 1, "failure"
    USAGE = 2, "usage, a wrong setting, a wrong payload"
    NOT_FOUND = 3, "not found"
    NOT_ALLOWED = 4, "not allowed"
    CONFLICT = 5, "conflict: wrong state, key in use"
    UNREACHABLE = 6, "a server that is needed cannot be reached"
    LEFT_BEHIND = 7, "sagas are in flight that this build cannot finish or take back"
    DISCREPANCIES = 8, "a reconciled day has something open"
    VIOLATIONS = 9, "what must hold does not: `amends verify` found a violation"
    INTERRUPTED = 130, "interrupted"


class Failure(click.ClickException):
    """The command did not do what it was asked for; the message says what to do next."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILURE) -> None:
        super().__init__(redact(message))
        self.exit_code = int(code)  # type: ignore[misc]  # a constant of click's classes

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the line."""
        click.echo(f"amends: {self.message}", file=file or sys.stderr)


CODES: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (SagaNotFoundError, ExitCode.NOT_FOUND),
    (UnknownDefinitionError, ExitCode.NOT_FOUND),
    (UnknownStepError, ExitCode.NOT_FOUND),
    (IdempotencyConflictError, ExitCode.CONFLICT),
    (StateConflictError, ExitCode.CONFLICT),
    (ConcurrentStartError, ExitCode.CONFLICT),
    (SagaLockedError, ExitCode.CONFLICT),
    (SettlementRefusedError, ExitCode.CONFLICT),
    (InstallationError, ExitCode.CONFLICT),
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
