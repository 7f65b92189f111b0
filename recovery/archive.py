"""The archive of pruned sagas: one line of JSON per saga, on disk before its rows are deleted."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.seam import durable

FOR_THE_OWNER_ONLY = 0o600


class Archive:
    """A new file of JSON lines, gzipped if its name ends in ``.gz``.

    Each line is an object with ``saga`` (the row), ``entries`` (the whole log) and ``signals``, as
    they were stored. Every call of `write` that returned can be read again after any crash; a file
    that a crash cut short is whole up to there.

    Raises:
        FileExistsError: never written into an existing file, whose end may have been cut short.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._file = os.fdopen(os.open(path, flags, FOR_THE_OWNER_ONLY), "wb")
        self._path = path
        self._is_zipped = path.suffix == ".gz"
        _sync_folder(path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        is_empty = self._file.tell() == 0
        self._file.close()
        if is_empty:
            self._path.unlink()

    def write(self, lines: Iterable[str]) -> None:
        """Append lines; on disk on return. Zipped, each call is a member of its own."""
        block = "".join(f"{line}\n" for line in lines).encode()
        durable(
            "archive.sync", lambda: self._append(gzip.compress(block) if self._is_zipped else block)
        )

    def _append(self, block: bytes) -> None:
        self._file.write(block)
        self._file.flush()
        os.fsync(self._file.fileno())


def _sync_folder(folder: Path) -> None:
    """Without this a crash of the machine could take the file's name with it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
