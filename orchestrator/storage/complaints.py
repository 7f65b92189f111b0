"""What an error of Postgres or its driver means to a person, and what to do about it."""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy
from psycopg import errors

from orchestrator.errors import LogUnavailableError


class Complaint(StrEnum):
    """The kinds that a person can do something about."""

    UNREACHABLE = "unreachable"
    NOT_MIGRATED = "not_migrated"
    NOT_ALLOWED = "not_allowed"


_BY_TYPE: tuple[tuple[type[BaseException], Complaint], ...] = (
    (LogUnavailableError, Complaint.UNREACHABLE),
    (errors.UndefinedTable, Complaint.NOT_MIGRATED),
    (errors.InvalidSchemaName, Complaint.NOT_MIGRATED),
    (errors.UndefinedColumn, Complaint.NOT_MIGRATED),
    (errors.InsufficientPrivilege, Complaint.NOT_ALLOWED),
    (errors.OperationalError, Complaint.UNREACHABLE),
    (sqlalchemy.exc.TimeoutError, Complaint.UNREACHABLE),
)


def complaint_of(error: BaseException) -> Complaint | None:
    """Return what `error` complains of, or None when it is not the database's."""
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        return complaint_of(error.orig)
    return next((found for kind, found in _BY_TYPE if isinstance(error, kind)), None)
