"""Moving a parked saga to a newer version, as that version declares: checked, never guessed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.definition import Migration as Declared
from orchestrator.definition import SagaDefinition, Step
from orchestrator.entries import Direction, Entry, Json, SagaMigrated, StepSkipped
from orchestrator.errors import PayloadError, UnknownDefinitionError
from orchestrator.payloads import read_back, validated
from orchestrator.storage.rows import Migrated
from recovery.operator.cases import Case
from recovery.operator.refusals import RefusedError
from recovery.operator.verbs import By, Migrate


def migration(
    case: Case, verb: Migrate, newer: SagaDefinition[Any] | None, by: By
) -> tuple[tuple[Entry, ...], Migrated]:
    """Return what moves the saga to the version asked for: entries, and what its row says then.

    Raises:
        RefusedError: it is not parked, that version does not declare how, or a step that ran has no
            counterpart of the same kind there.
        UnknownDefinitionError: its own version or that one is not here.
        PayloadError: the payload cannot be made, or does not fit the newer version.
    """
    if not case.is_parked or case.state.is_open:
        raise RefusedError(case.saga, f"only a parked saga is moved; it is {case.saga.state}")
    declared = _declared(case, verb, newer)
    assert newer is not None, "what declares it is here"
    for problem in _problems(case, newer, declared):
        raise RefusedError(case.saga, f"{newer} does not fit: {problem}")
    payload = _payload(case, newer, declared)
    entry = SagaMigrated(
        version=newer.version,
        definition_hash=newer.hash,
        payload=payload,
        renamed=dict(declared.renamed),
    )
    row = Migrated(
        version=newer.version,
        definition_hash=newer.hash,
        attributes={each: payload[each] for each in newer.attributes if each in payload},
    )
    return (entry, *_skipped(case, newer, declared, payload, by)), row


def _declared(case: Case, verb: Migrate, newer: SagaDefinition[Any] | None) -> Declared:
    saga = case.saga
    if newer is None:
        raise UnknownDefinitionError(
            f"{saga.definition} v{verb.version} is not known here: name its module in AMENDS_SAGAS"
        )
    declared = newer.migrates.get(saga.version)
    if newer.version <= saga.version or declared is None:
        raise RefusedError(
            saga, f"{newer} does not declare how sagas of v{saga.version} go on (`migrates=`)"
        )
    return declared


def _problems(case: Case, newer: SagaDefinition[Any], declared: Declared) -> Iterator[str]:
    """What of the log would mean something else, or nothing, under the newer version."""
    older = case.definition
    names = {each.name for each in newer.steps}
    for name, new in declared.renamed.items():
        if name != new and name in names:
            yield f"what is heard of {name} late would be taken for another step's"
    counterparts: dict[str, str] = {}
    for name in case.state.steps:
        new = declared.renamed.get(name, name)
        if new in counterparts:
            yield f"both {counterparts[new]} and {name} would be {new}"
        counterparts[new] = name
        known = case.state.step(name)
        if not known.effects and not any(track.attempts for _, track in known.tracks):
            continue
        if new not in names:
            yield f"{name} ran, and no step is its counterpart (`renamed=`)"
        elif _nature(older.step(name)) != _nature(newer.step(new)):
            yield (
                f"{name} ran as {' '.join(_nature(older.step(name)))}, and {new} is "
                f"{' '.join(_nature(newer.step(new)))}"
            )


def _nature(step: Step) -> tuple[str, ...]:
    """What the log of a step that ran depends on: its kind, and how it is undone."""
    return (
        step.kind.value,
        "with an undo" if step.compensation is not None else "without an undo",
        *(["in the engine's transaction"] if step.transactional else []),
    )


def _payload(case: Case, newer: SagaDefinition[Any], declared: Declared) -> Json:
    if declared.payload is None:
        return validated(newer, case.state.payload)
    try:
        made = declared.payload(case.state.payload)
    except Exception as error:
        raise PayloadError(
            f"the payload of {case.saga.key} cannot be made for {newer}: {type(error).__name__}"
        ) from error
    return validated(newer, made)


def _skipped(
    case: Case, newer: SagaDefinition[Any], declared: Declared, payload: Json, by: By
) -> Iterator[Entry]:
    """Conditions are decided once, at the start: those of steps that are new, here."""
    old = {declared.renamed.get(each.name, each.name) for each in case.definition.steps}
    model = read_back(newer, payload)
    for each in newer.steps:
        if each.name not in old and each.when is not None and not each.when(model):
            yield StepSkipped(step=each.name, direction=Direction.FORWARD, by=by.actor)
