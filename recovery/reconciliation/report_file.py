"""A gateway's report as a file: CSV, one line per movement of money, as the sandbox writes it.

A line is read by itself, so that a stray quote spoils one row and not all that follow.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final, TextIO

from orchestrator.errors import AmendsError
from recovery.reconciliation.records import FAILED, MOVED, InvalidRow, Row, TransactionRecord
from steps.gateways.payment import MovementKind

COLUMNS: Final = (
    "at",
    "operation",
    "reference",
    "payment_reference",
    "order_reference",
    "amount_minor",
    "currency",
    "key",
)
"""What a file must have; it may have more, in any order."""

_OPERATIONS = frozenset(each.value for each in MovementKind)
_MINOR = re.compile(r"[0-9]{1,19}")
_LONGEST_LINE = 10_000


class ReportFileError(AmendsError):
    """The file is no report: it cannot be read, or lacks columns. Nothing was compared."""


def rows_of(path: Path) -> Iterator[Row]:
    """Yield the rows of a file one by one; what cannot be understood is an invalid row.

    Raises:
        ReportFileError: there is no such file, or it lacks a column.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            names = _cells(file.readline(_LONGEST_LINE)) or []
            missing = [each for each in COLUMNS if each not in names]
            if missing:
                raise ReportFileError(f"{path} is no report: it lacks {', '.join(missing)}")
            twice = [each for each in COLUMNS if names.count(each) > 1]
            if twice:
                raise ReportFileError(f"{path} is no report: it has {', '.join(twice)} twice")
            for line in _lines(file):
                if line.strip():
                    yield _row(line, names)
    except OSError as error:
        raise ReportFileError(f"{path} cannot be read: {error.strerror}") from error


def _lines(file: TextIO) -> Iterator[str]:
    """Yield lines; of one that is too long to be a row only the beginning is kept."""
    while line := file.readline(_LONGEST_LINE):
        rest = line
        while rest and not rest.endswith(("\n", "\r")):
            rest = file.readline(_LONGEST_LINE)
        yield line


def _cells(line: str) -> list[str] | None:
    try:
        return next(csv.reader([line], strict=True), None)
    except csv.Error:
        return None


def _row(line: str, names: list[str]) -> Row:
    line = line.rstrip("\r\n")
    cells = _cells(line)
    if cells is None or len(cells) != len(names):
        return InvalidRow(why="not as many cells as the file has columns", raw=line)
    told = dict(zip(names, cells, strict=True))
    if told["operation"] not in _OPERATIONS:
        return InvalidRow(why="an operation that is not known", raw=line)
    if not _MINOR.fullmatch(told["amount_minor"]):
        return InvalidRow(why="the amount is no number of minor units", raw=line)
    try:
        at = datetime.fromisoformat(told["at"])
    except ValueError:
        return InvalidRow(why="no moment with a zone", raw=line)
    is_failed = told["operation"] == MovementKind.REFUND_FAILED
    return TransactionRecord(
        reference=told["reference"],
        amount_minor=int(told["amount_minor"]),
        currency=told["currency"],
        at=at,
        kind=MovementKind.REFUND if is_failed else told["operation"],
        status=FAILED if is_failed else MOVED,
        payment_reference=told["payment_reference"] or None,
        order_reference=told["order_reference"] or None,
        key=told["key"] or None,
    )
