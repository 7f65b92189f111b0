"""Starts a saga per row, and counts. Safe to repeat from the beginning, which is how it resumes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from orchestrator.client import NotStarted, SagaClient
from orchestrator.definition import SagaDefinition
from recovery.cli.fields import typed
from recovery.cli.row_files import FileRow, RowFile

SHOWN = 10
"""So many refused rows are named; the rest is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A row that was refused, and why."""

    row: int
    key: str
    error: str


@dataclass(slots=True, kw_only=True)
class BulkReport:
    """What came of the rows so far."""

    created: int = 0
    existing: int = 0
    refused: int = 0
    refusals: list[Refusal] = field(default_factory=list)

    def refuse(self, row: int, key: str, error: str) -> None:
        """Count a refused row, and keep the first ones."""
        self.refused += 1
        if len(self.refusals) < SHOWN:
            self.refusals.append(Refusal(row=row, key=key, error=error))

    def as_json(self) -> dict[str, Any]:
        """Return the counts and the first refusals."""
        named = [{"row": each.row, "key": each.key, "error": each.error} for each in self.refusals]
        return {
            "created": self.created,
            "existing": self.existing,
            "refused": self.refused,
            "refusals": named,
        }

    def __str__(self) -> str:
        lines = [f"{self.created} started, {self.existing} existed, {self.refused} refused"]
        lines += [f"  line {each.row}, key {each.key!r}: {each.error}" for each in self.refusals]
        if self.refused > len(self.refusals):
            lines.append(f"  … and {self.refused - len(self.refusals)} more")
        return "\n".join(lines)


class BulkStart:
    """One file's run.

    Args:
        constants: fields that every row gets; a row's own value comes first.
        tell: takes one warning about columns that are no fields.
    """

    def __init__(
        self,
        client: SagaClient,
        definition: SagaDefinition[Any],
        *,
        key_column: str,
        constants: Mapping[str, Any],
        tell: Callable[[str], None],
    ) -> None:
        self.report = BulkReport()
        self._client = client
        self._definition = definition
        self._key_column = key_column
        self._constants = constants
        self._tell = tell
        self._warned: set[str] = set()
        self._rows: list[int] = []

    def run(self, file: RowFile, limit: int | None = None) -> None:
        """Start everything in the file, 500 rows to a transaction.

        Raises:
            ValueError: the file is damaged; what came before that is started.
            LogUnavailableError: Postgres does not answer; start the file again.
        """
        rows = islice(file, limit)
        with _progress() as progress:
            task = progress.add_task(self._definition.name, total=file.size)
            for position, answer in enumerate(
                self._client.start_many(self._definition, self._payloads(rows))
            ):
                if isinstance(answer, NotStarted):
                    self.report.refuse(self._rows[position], answer.key, str(answer.error))
                elif answer.created:
                    self.report.created += 1
                else:
                    self.report.existing += 1
                progress.update(task, completed=file.position, description=self._counts)

    @property
    def _counts(self) -> str:
        return f"{self.report.created + self.report.existing} started"

    def _payloads(self, rows: Iterator[FileRow]) -> Iterator[tuple[str, dict[str, Any]]]:
        for row in rows:
            key = str(row.values.get(self._key_column, ""))
            if row.problem is not None:
                self.report.refuse(row.number, key, row.problem)
                continue
            if not key:
                problem = f"no value in the key's column {self._key_column!r}"
                self.report.refuse(row.number, key, problem)
                continue
            self._rows.append(row.number)
            yield key, {**self._constants, **self._fields(row)}

    def _fields(self, row: FileRow) -> dict[str, Any]:
        model = self._definition.payload
        unknown = set(row.values) - set(model.model_fields) - {self._key_column} - self._warned
        if unknown:
            self._warned |= unknown
            names = ", ".join(sorted(unknown))
            self._tell(f"columns ignored, {self._definition.name} has no such fields: {names}")
        return {
            name: typed(model, name, value) if row.is_text else value
            for name, value in row.values.items()
            if name in model.model_fields
        }


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
