"""Doing an ended saga's work again: as a new saga with a key of its own, linked to the old one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.client import SagaClient, Started
from orchestrator.coordinator import Coordinator
from orchestrator.definition import SagaDefinition
from orchestrator.entries import Json, OperatorActed
from orchestrator.money_at_risk import money_at_risk
from orchestrator.new_sagas import Origin
from orchestrator.payloads import checked_key, validated
from orchestrator.state import State
from recovery.operator.cases import Case
from recovery.operator.conditions import check_words
from recovery.operator.refusals import MovedOnError, RefusedError
from recovery.operator.verbs import By

NAME = "replay"
NUMBERED = re.compile(r"(.+)~(\d+)")
TRIED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """How an ended saga's work is done again.

    Args:
        key: the new saga's; by default the old one's with ``~2``, or the next number.
        payload: instead of the old one's, as JSON.
        changes: fields that differ, by name.
        again: although the old saga completed, or left money open: all of it happens once more.
    """

    key: str | None = None
    payload: Json = None
    changes: Mapping[str, Json] = field(default_factory=dict)
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWork:
    """The saga that would be started."""

    definition: SagaDefinition[Any]
    key: str
    payload: Mapping[str, Json]


def new_work(coordinator: Coordinator, case: Case, replay: Replay) -> NewWork:
    """Return the saga that would do the old one's work again, under the latest version.

    Raises:
        RefusedError: the old one has not ended, or `again` is needed, or the key is taken.
        UnknownDefinitionError, PayloadError, InvalidKeyError: nothing could be started.
    """
    definition = coordinator.definitions.latest(case.saga.definition)
    _check(case, again=replay.again)
    given = case.state.payload if replay.payload is None else replay.payload
    if given is None:
        raise RefusedError(case.saga, "its payload was pruned: give one (--payload)")
    payload = {**given, **replay.changes}
    validated(definition, payload)
    return NewWork(
        definition=definition,
        key=_free(coordinator, case, definition, replay.key),
        payload=payload,
    )


def started(
    coordinator: Coordinator, client: SagaClient, case: Case, work: NewWork, by: By
) -> Started:
    """Start it, linked to the old one, whose log says so first.

    Should this process die in between, nothing was started: the verb is simply repeated.

    Raises:
        MovedOnError: somebody else wrote to the old saga at this moment.
    """
    check_words(by)
    acted = OperatorActed(verb=NAME, actor=by.actor, reason=by.reason, data={"key": work.key})
    if coordinator.mover.note(case.saga, [acted], state=case.saga.state) is None:
        raise MovedOnError(case.saga, case.saga.seq)
    origin = Origin(replay_of=case.saga.id)
    return client.start(work.definition, work.payload, key=work.key, origin=origin)


def _check(case: Case, *, again: bool) -> None:
    if not case.has_ended:
        raise RefusedError(case.saga, f"it has not ended, it is {case.saga.state}")
    if again:
        return
    if case.saga.state is State.COMPLETED:
        raise RefusedError(
            case.saga, "it completed: to do all of it a second time, say so (--again)"
        )
    open_money = money_at_risk(case.snapshot.entries)
    if open_money:
        raise RefusedError(
            case.saga,
            f"its log leaves money open ({', '.join(open_money)}): a replay moves it once more; "
            "if that is right, say so (--again)",
        )


def _free(
    coordinator: Coordinator, case: Case, definition: SagaDefinition[Any], key: str | None
) -> str:
    candidates = [checked_key(key)] if key is not None else _derived(case.saga.key)
    taken = coordinator.log.holders(definition.name, candidates)
    free = next((each for each in candidates if each not in taken), None)
    if free is None:
        raise RefusedError(case.saga, f"key {candidates[0]!r} has a saga already; give another")
    return free


def _derived(key: str) -> Sequence[str]:
    numbered = NUMBERED.fullmatch(key)
    root, number = (numbered[1], int(numbered[2])) if numbered else (key, 1)
    return [f"{root}~{number + more}" for more in range(1, TRIED + 1)]
