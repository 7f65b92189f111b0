"""What needs a person now, in the order in which to look: why, the money at risk, what to type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from orchestrator.entries import SagaParked
from orchestrator.errors import HistoryError, SagaNotFoundError
from orchestrator.money_at_risk import MoneyAtRisk, money_at_risk
from orchestrator.state import PendingAssertion
from orchestrator.storage.attention import Attention, Concern
from orchestrator.storage.reads import Reads, SagaSummary
from orchestrator.unsettled import unsettled
from recovery.operator.cases import Case
from recovery.operator.operator import Operator
from recovery.operator.recommending import Advice, recommended, unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A saga that needs a person.

    Args:
        why: the reason it is parked for, ``retrying``, ``overdue``, or ``unclaimed``: no worker
            has taken what is due in its queue; `since`: for how long.
        unknown_since: since when an outcome of it is unknown, or None.
        steps: what is asked about.
        money: what its log says is held, or taken and not given back.
        advice: what to type first.
        assertions: what a second person has to confirm.
    """

    saga: SagaSummary
    why: str
    since: datetime
    unknown_since: datetime | None
    steps: tuple[str, ...]
    money: Mapping[str, MoneyAtRisk]
    advice: Advice
    assertions: tuple[PendingAssertion, ...] = ()


def needing_attention(
    attention: Attention,
    reads: Reads,
    operator: Operator,
    *,
    saga: str | None = None,
    limit: int = 20,
    retrying_seconds: float,
    overdue_seconds: float,
    unclaimed_seconds: float,
) -> list[Row]:
    """Return at most `limit` sagas: the oldest unknown outcome first, then the longest waiting.

    Args:
        saga: only those of this definition.
        retrying_seconds: how long a step may be tried again before that is worth a look.
        overdue_seconds: how long a saga may be due before that is.
        unclaimed_seconds: how long a due attempt may wait for a worker before that is.
    """
    concerns = [
        *attention.parked(saga, limit),
        *attention.failing(saga, limit, retrying_seconds),
        *attention.overdue(saga, limit, overdue_seconds),
        *attention.unclaimed(saga, limit, unclaimed_seconds),
    ]
    first: dict[UUID, Concern] = {}
    for each in concerns:
        first.setdefault(each.saga_id, each)
    rows = [row for each in first.values() if (row := _row(each, reads, operator)) is not None]
    return sorted(rows, key=_urgency)[:limit]


def _row(concern: Concern, reads: Reads, operator: Operator) -> Row | None:
    """None: the saga has ended meanwhile, and was pruned."""
    saga = reads.get(concern.saga_id)
    if saga is None:
        return None
    try:
        case = operator.case(concern.saga_id)
    except SagaNotFoundError:
        return None
    except HistoryError as error:
        return _unreadable(concern, saga, error)
    entries = case.snapshot.entries
    return Row(
        saga=saga,
        why=concern.why,
        since=concern.since,
        unknown_since=_unknown_since(case),
        steps=tuple(case.parked.steps) if case.parked else (),
        money=money_at_risk(entries),
        advice=_first_advice(concern, case),
        assertions=case.state.pending_assertions(case.now),
    )


def _unreadable(concern: Concern, saga: SagaSummary, error: HistoryError) -> Row:
    return Row(
        saga=saga,
        why=concern.why,
        since=concern.since,
        unknown_since=None,
        steps=(),
        money={},
        advice=unreadable(saga.id, error),
    )


def _first_advice(concern: Concern, case: Case) -> Advice:
    if concern.why == "overdue":
        return Advice(command="amends doctor", why="nobody looks at it: do sweepers keep up?")
    if concern.why == "unclaimed":
        return Advice(command="amends doctor", why="no worker takes it: is its queue served?")
    advice = recommended(case)
    return advice[0] if advice else Advice(command=f"amends show {case.saga.id}", why="look at it")


def _unknown_since(case: Case) -> datetime | None:
    """When the oldest outcome became unknown that still is, or was when the saga parked."""
    entries = case.snapshot.entries
    if case.is_parked:
        parked_at = max(each.seq for each in entries if isinstance(each.entry, SagaParked))
        entries = [each for each in entries if each.seq < parked_at]
    found = unsettled(entries)
    return found[0].since if found else None


def _urgency(row: Row) -> tuple[bool, datetime]:
    return row.unknown_since is None, row.unknown_since or row.since
