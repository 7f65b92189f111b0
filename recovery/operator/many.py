"""One verb for many sagas: counted first, capped, and each by a compare-and-set of its own."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from orchestrator.errors import AmendsError, LogUnavailableError
from orchestrator.storage.attention import Attention, Filter
from recovery.operator.operator import Operator
from recovery.operator.previews import Preview
from recovery.operator.verbs import By, Verb

CAP = 100
"""More at once is a decision of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """How many sagas a filter matches, and the oldest of them, each with the seq it was seen at."""

    count: int
    sagas: tuple[tuple[UUID, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of each; `refused` by saga id, with the reason."""

    done: tuple[Preview, ...]
    refused: tuple[tuple[UUID, str], ...]


def matches(attention: Attention, wanted: Filter, cap: int = CAP) -> Matches:
    """Count the sagas that a filter matches, and name the oldest of them, at most `cap`."""
    return Matches(count=attention.how_many(wanted), sagas=tuple(attention.matching(wanted, cap)))


def act_on_each(operator: Operator, found: Matches, verb: Verb, by: By) -> Done:
    """Do it to each as it was seen; one that is refused does not stop the others.

    Raises:
        LogUnavailableError: Postgres does not answer; those before it are done.
    """
    done: list[Preview] = []
    refused: list[tuple[UUID, str]] = []
    for saga_id, seq in found.sagas:
        try:
            done.append(operator.act(saga_id, verb, by, seen=seq))
        except LogUnavailableError:
            raise
        except AmendsError as error:
            refused.append((saga_id, str(error)))
    return Done(done=tuple(done), refused=tuple(refused))
