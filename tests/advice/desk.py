"""An operator who knows nothing but what the command line prints, and does just that."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from click.testing import CliRunner, Result
from sqlalchemy import make_url

from recovery.cli.program import amends
from recovery.operator.recommending import REFERENCE

SAGAS = "tests.advice.sagas"
FIRST, SECOND = "ada", "bob"
"""Database roles of two operators, of whom one may confirm what the other says."""

PASSWORD = "of-these-cases"
LONGEST_WAIT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A command that was typed, and its exit code."""

    verb: str
    exit_code: int


@dataclass
class Desk:
    """A command line on a database.

    Args:
        sagas: the modules that it knows.
        role: the database role of who sits at it; else the machine's user does.
    """

    url: str
    sagas: str = SAGAS
    role: str | None = None
    followed: list[Followed] = field(default_factory=list)

    def run(self, *words: str) -> Result:
        url = make_url(self.url)
        if self.role is not None:
            url = url.set(username=self.role, password=PASSWORD)
        where = {
            "AMENDS_DATABASE_URL": url.render_as_string(hide_password=False),
            "AMENDS_SAGAS": self.sagas,
        }
        with _environment(where):
            return CliRunner().invoke(amends, words, prog_name="amends")

    def next_of(self, saga_id: UUID) -> str:
        """The command that ``amends list --needs-attention`` prints for the saga."""
        rows = self._read("list", "--needs-attention")
        found = [each["next"] for each in rows if each["id"] == str(saga_id)]
        assert found, f"{saga_id} needs no attention: {rows}"
        return str(found[0])

    def advice_of(self, saga_id: UUID | str) -> list[dict[str, Any]]:
        """What ``amends show`` says may be done, best first."""
        [page] = self._read("show", str(saga_id))
        return list(page["recommended"])

    def follow(self, command: str, reference: str | None) -> str:
        """Type a command as it was printed, with the reference that the other side shows."""
        program, verb, *words = shlex.split(command.replace("…", "the cause is mended"))
        assert program == "amends", command
        words = [reference or "" if each == REFERENCE else each for each in words]
        if verb == "confirm":
            self.role = SECOND
        done = self.run(verb, *words)
        self.followed.append(Followed(verb=verb, exit_code=done.exit_code))
        printed = [each.strip() for each in done.stdout.splitlines() if _is_a_command(each)]
        if verb == "repair" and printed:
            return self.follow(
                printed[0], reference
            )  # the first says what is wrong, and what to type
        return verb

    def _read(self, *words: str) -> list[dict[str, Any]]:
        answer = self.run(*words, "--json")
        assert answer.exit_code == 0, f"{words}: {answer.output}"
        return [json.loads(line) for line in answer.stdout.splitlines()]


def _is_a_command(line: str) -> bool:
    return line.startswith("  amends ")


def wait_for(possible_from: str | None) -> None:
    """Wait until a command is possible that only comes too early."""
    if possible_from is None:
        return
    left = (datetime.fromisoformat(possible_from) - datetime.now(UTC)).total_seconds()
    assert left < LONGEST_WAIT, f"possible from {possible_from} only"
    time.sleep(max(left, 0) + 0.05)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
