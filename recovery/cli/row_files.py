"""Rows of a file of orders: CSV with a header, or one JSON object per line, gzipped or not."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    """One row: where it stands, its values by column, and what is wrong with it, if anything.

    `is_text`: the values are cells, still to be typed; an empty cell is a field not given.
    """

    number: int
    values: dict[str, Any]
    problem: str | None = None
    is_text: bool = True


class RowFile:
    """A file of rows, read once from the beginning.

    Raises:
        ValueError: the file's name says no known format, or it has no usable header.
    """

    def __init__(self, path: Path) -> None:
        self._raw = path.open("rb")
        self.size = path.stat().st_size
        suffixes = [each.lower() for each in path.suffixes]
        is_zipped = suffixes[-1:] == [".gz"]
        kind = (suffixes[:-1] if is_zipped else suffixes)[-1:]
        stream: Any = gzip.GzipFile(fileobj=self._raw) if is_zipped else self._raw
        self._text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        if kind == [".csv"]:
            self._rows = _csv_rows(self._text, path)
        elif kind in ([".jsonl"], [".ndjson"]):
            self._rows = _json_rows(self._text)
        else:
            self.close()
            raise ValueError(f"{path}: not .csv, .jsonl or one of these with .gz")

    def __iter__(self) -> Iterator[FileRow]:
        """Yield the rows.

        Raises:
            ValueError: the file is damaged or ends in the middle; the message says where.
        """
        number = 1
        try:
            for row in self._rows:
                number = row.number
                yield row
        except (EOFError, gzip.BadGzipFile, UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"the file is damaged after line {number}: {error}") from error

    @property
    def position(self) -> int:
        """How many bytes of the file were read, zipped or not."""
        return self._raw.tell()

    def close(self) -> None:
        """Close the file."""
        self._text.close()
        self._raw.close()


def _csv_rows(text: IO[str], path: Path) -> Iterator[FileRow]:
    reader = csv.reader(text, strict=True)
    header = [each.strip() for each in next(reader, [])]
    if not any(header):
        raise ValueError(f"{path}: no header; the first line must name the columns")
    if len(set(header)) != len(header):
        raise ValueError(f"{path}: a column is named twice in the header")
    for cells in reader:
        if not cells:
            continue
        values = {name: cell for name, cell in zip(header, cells, strict=False) if cell != ""}
        problem = None
        if len(cells) != len(header):
            problem = f"{len(cells)} cells, but the header names {len(header)} columns"
        yield FileRow(number=reader.line_num, values=values, problem=problem)


def _json_rows(text: IO[str]) -> Iterator[FileRow]:
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            yield FileRow(number=number, values={}, problem=f"not JSON: {error}", is_text=False)
            continue
        if not isinstance(values, dict):
            yield FileRow(number=number, values={}, problem="not a JSON object", is_text=False)
            continue
        yield FileRow(number=number, values=values, is_text=False)
