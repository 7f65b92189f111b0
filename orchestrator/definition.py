"""A saga written down as a value: its steps, their undoing, and the promises they make.

A definition is frozen, compares by value and does nothing. Wrong definitions are refused where they
are written, at import, with the fix in the message.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from orchestrator.closing import ClosingCheck, may_always
from orchestrator.errors import DefinitionError, Retriable, Terminal
from orchestrator.guarding import CallPolicy

P = TypeVar("P", bound=BaseModel)

NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")
"""Names become task names, metric labels and parts of keys: short, lower case, no dots."""

DEFAULT_QUEUE = "amends"
RESERVED = "amends"
"""The first part of the engine's own task names, so no saga may have it."""

MAX_TIMEOUT = timedelta(hours=1)


class Kind(StrEnum):
    """What a step promises about the way back."""

    COMPENSATABLE = "compensatable"
    PIVOT = "pivot"
    RETRIABLE = "retriable"


class HandOff(StrEnum):
    """How the next step may start: in the worker that finished this one, or through the broker."""

    AUTO = "auto"
    BROKER = "broker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how patiently one step, or its compensation, is tried.

    Args:
        max_attempts: tries that end *retriable* before the step counts as failed, at least 1. Tries
            whose outcome is unknown have a budget of the same size of their own.
        base: pause before the second try; doubles with each further one, with full jitter.
        cap: the longest pause.
    """

    max_attempts: int = 5
    base: timedelta = timedelta(milliseconds=500)
    cap: timedelta = timedelta(seconds=60)

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise DefinitionError(f"Retry.max_attempts is {self.max_attempts}; use 1 or more")
        if not timedelta(0) < self.base <= self.cap:
            raise DefinitionError("Retry needs 0 < base <= cap")


UNDO_RETRY = Retry(max_attempts=10, base=timedelta(seconds=1), cap=timedelta(minutes=5))
"""Undoing is tried longer than doing: giving up needs a person."""

PROBE_RETRY = Retry(max_attempts=10, base=timedelta(seconds=1), cap=timedelta(minutes=5))
"""Asking costs nothing, and giving up needs a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a saga; build it with `step`, which checks what belongs together."""

    name: str
    run: Callable[..., Any]
    compensation: Callable[..., Any] | None
    no_compensation: str | None
    kind: Kind
    transactional: bool
    read_only: bool
    retry: Retry
    undo_retry: Retry
    timeout: timedelta
    queue: str
    hand_off: HandOff
    when: Callable[[Any], bool] | None
    after: tuple[str, ...] | None
    undone_by: str | None
    terminal_errors: tuple[type[BaseException], ...]
    retriable_errors: tuple[type[BaseException], ...]
    max_crashes: int
    probe: Callable[..., Any] | None
    undo_probe: Callable[..., Any] | None
    probe_retry: Retry
    lookup: Callable[..., Any] | None
    lag: timedelta
    key_life: timedelta | None
    calls: CallPolicy | None


def step(
    name: str,
    run: Callable[..., Any],
    *,
    compensation: Callable[..., Any] | None = None,
    no_compensation: str | None = None,
    transactional: bool = False,
    read_only: bool = False,
    pivot: bool = False,
    retriable: bool = False,
    retry: Retry = Retry(),
    undo_retry: Retry = UNDO_RETRY,
    timeout: timedelta = timedelta(seconds=30),
    queue: str = DEFAULT_QUEUE,
    hand_off: HandOff | str = HandOff.AUTO,
    when: Callable[[Any], bool] | None = None,
    after: Sequence[str] | None = None,
    undone_by: str | None = None,
    terminal_errors: Iterable[type[BaseException]] = (),
    retriable_errors: Iterable[type[BaseException]] = (),
    max_crashes: int = 4,
    probe: Callable[..., Any] | None = None,
    undo_probe: Callable[..., Any] | None = None,
    probe_retry: Retry = PROBE_RETRY,
    lookup: Callable[..., Any] | None = None,
    lag: timedelta = timedelta(0),
    key_life: timedelta | None = None,
    calls: CallPolicy | None = None,
) -> Step:
    """Describe one step.

    Args:
        name: unique in the saga; lower case letters, digits and underscores.
        run: called as ``run(context)``; returns a JSON-able value, a pydantic model or an `Effect`.
        compensation: called as ``compensation(context)`` to undo the step semantically. It must be
            able to meet a step that never had an effect.
        no_compensation: why nothing needs to be undone ("none, because ..."); instead of
            `compensation`.
        transactional: the step writes through ``context.connection`` only, and its writes commit
            together with its log entry: exactly once.
        read_only: the step has no effect outside; an exception of it never means "unknown".
        pivot: the point of no return; once it succeeded nothing is taken back.
        retriable: a step after the pivot, which can only be repeated until it succeeds.
        retry, undo_retry: budgets of the step and of its compensation.
        timeout: the longest one attempt may take, at most an hour.
        queue: the Celery queue of its task.
        hand_off: ``auto`` runs it in the same worker where that serves the queue; ``broker`` never.
        when: run the step only if this is true of the payload; decided once, at the start.
        after: names of the steps that must be done first; default the step written before it.
        undone_by: another step whose compensation, when it really undid something, undid this too.
        terminal_errors, retriable_errors: foreign exceptions that mean "no effect", final or not.
        max_crashes: attempts that took their worker down before the saga is parked; the last one
            runs alone in its process.
        probe: called as ``probe(context)`` to ask whether the step took effect when no attempt was
            told; returns an `Effect` (it did), `NotLanded` or `CannotTell`. Asked when the key may
            not be used again: its budget of unknown tries is spent, or it is too old.
        undo_probe: the same of the compensation: whether it took effect when no attempt of it was
            told. Called as ``undo_probe(context)`` with the compensation's effect and key.
        probe_retry: how often either may end without an answer before an operator is asked.
        lookup: called as ``lookup(context, reference)`` when an operator says what became of the
            step or, with ``context.direction`` ``compensate``, of its undo: returns what the other
            side has under that reference as `Found`; `NotLanded` or `CannotTell` where there is
            nothing, or no answer. None as the reference: what the step acted on. Without it, or
            without an answer, a second person has to confirm the operator's word.
        lag: how long the other side may not show what it has done already.
        key_life: how long the other side remembers an idempotency key; None: for ever. Past half
            of it an unknown attempt is never repeated, only probed. Zero: it knows no keys.
        calls: the rate and the circuit that all calls to the other side share, those of the
            compensation and the probe too; they go through ``context.call`` and ``context.ask``.

    Raises:
        DefinitionError: the parts contradict each other; the message says what to change.
    """
    if not NAME.fullmatch(name):
        raise DefinitionError(
            f"step name {name!r}: use 1 to 60 lower case letters, digits and underscores"
        )
    if pivot and retriable:
        raise DefinitionError(f"step {name!r} is either pivot or retriable, not both")
    if compensation is not None and no_compensation is not None:
        raise DefinitionError(f"step {name!r}: give compensation or no_compensation, not both")
    if no_compensation is not None and not no_compensation.strip():
        raise DefinitionError(f"step {name!r}: no_compensation must say why nothing is undone")
    if transactional and read_only:
        raise DefinitionError(f"step {name!r} is either transactional or read_only, not both")
    if not timedelta(0) < timeout <= MAX_TIMEOUT:
        raise DefinitionError(f"step {name!r}: timeout must be positive and at most {MAX_TIMEOUT}")
    if max_crashes < 1:
        raise DefinitionError(f"step {name!r}: max_crashes must be 1 or more")
    if probe is not None and (transactional or read_only):
        raise DefinitionError(f"step {name!r} has no unknown effects outside; drop its probe")
    if undo_probe is not None and (compensation is None or transactional):
        raise DefinitionError(
            f"step {name!r} has no undo of unknown effect outside; drop its undo_probe"
        )
    if lookup is not None and (transactional or read_only):
        raise DefinitionError(f"step {name!r} has no effects outside to look up; drop its lookup")
    if lag < timedelta(0) or (key_life is not None and key_life < timedelta(0)):
        raise DefinitionError(f"step {name!r}: lag and key_life cannot be negative")
    if not queue or not queue.strip():
        raise DefinitionError(f"step {name!r}: queue is empty; leave it out for {DEFAULT_QUEUE!r}")
    return Step(
        name=name,
        run=run,
        compensation=compensation,
        no_compensation=no_compensation,
        kind=Kind.PIVOT if pivot else Kind.RETRIABLE if retriable else Kind.COMPENSATABLE,
        transactional=transactional,
        read_only=read_only,
        retry=retry,
        undo_retry=undo_retry,
        timeout=timeout,
        queue=queue,
        hand_off=HandOff(hand_off),
        when=when,
        after=None if after is None else tuple(after),
        undone_by=undone_by,
        terminal_errors=(Terminal, *terminal_errors),
        retriable_errors=(Retriable, *retriable_errors),
        max_crashes=max_crashes,
        probe=probe,
        undo_probe=undo_probe,
        probe_retry=probe_retry,
        lookup=lookup,
        lag=lag,
        key_life=key_life,
        calls=calls,
    )


class Busy(StrEnum):
    """What a start does while another saga is at work on the same thing."""

    QUEUE = "queue"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """A semantic lock: one saga at a time is at work on a business thing (an order, a cart).

    Args:
        on: from the payload to the thing's name, at most 200 characters, for example ``cart/7``.
            Definitions that name the same thing exclude each other.
        busy: ``queue`` lets later sagas wait in the order of their starts; ``refuse`` refuses them.
    """

    on: Callable[[Any], str]
    busy: Busy = Busy.QUEUE


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """How parked sagas of an older version go on under this one.

    Args:
        renamed: new step names by old ones; a step that is not named keeps its name.
        payload: from the old payload (JSON) to the new one; None keeps it.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    payload: Callable[[Any], Any] | None = None


@dataclass(frozen=True, kw_only=True)
class SagaDefinition(Generic[P]):
    """A named, versioned saga.

    Args:
        name: the business's word for it, for example ``checkout``.
        version: raise it whenever steps, their order, kinds, conditions or compensations change.
        payload: the pydantic model every start is checked against.
        steps: in order; each comes after the one written before it unless it says ``after=``.
        attributes: payload fields by which sagas can be found (``order_id``).
        deadline: a saga that has not passed its pivot by then is taken back.
        closing: the closing check: what the books must say before the saga may end.
        lock: what only one saga at a time may be at work on, until it has ended.
        migrates: how parked sagas of older versions may go on under this one, by their version.

    Raises:
        DefinitionError: see the message for the fix.
    """

    name: str
    version: int
    payload: type[P]
    steps: Sequence[Step]
    attributes: Sequence[str] = ()
    deadline: timedelta | None = None
    closing: ClosingCheck = may_always
    lock: Lock | None = None
    migrates: Mapping[int, Migration] = field(default_factory=dict)
    _by_name: Mapping[str, Step] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        object.__setattr__(self, "attributes", tuple(self.attributes))
        object.__setattr__(self, "_by_name", {each.name: each for each in self.steps})
        _check(self)

    def step(self, name: str) -> Step:
        """Return the step of that name.

        Raises:
            KeyError: the definition has no such step.
        """
        return self._by_name[name]

    @cached_property
    def after(self) -> Mapping[str, tuple[str, ...]]:
        """For each step the steps that must be done before it starts."""
        result: dict[str, tuple[str, ...]] = {}
        previous: tuple[str, ...] = ()
        for each in self.steps:
            result[each.name] = previous if each.after is None else each.after
            previous = (each.name,)
        return result

    @cached_property
    def before(self) -> Mapping[str, tuple[str, ...]]:
        """For each step the steps that wait for it; the reverse of `after`."""
        result: dict[str, list[str]] = {each.name: [] for each in self.steps}
        for name, predecessors in self.after.items():
            for predecessor in predecessors:
                result[predecessor].append(name)
        return {name: tuple(names) for name, names in result.items()}

    @cached_property
    def pivot(self) -> str | None:
        """Name of the point of no return, if the saga has one."""
        return next((each.name for each in self.steps if each.kind is Kind.PIVOT), None)

    @cached_property
    def hash(self) -> str:
        """Fingerprint of everything the meaning of a log depends on, 32 hex digits.

        Budgets, timeouts, queues and the bodies of functions are not part of it.
        """
        shape = {
            "name": self.name,
            "version": self.version,
            "steps": [
                {
                    "name": each.name,
                    "kind": each.kind,
                    "transactional": each.transactional,
                    "after": sorted(self.after[each.name]),
                    "conditional": each.when is not None,
                    "undo": each.compensation is not None,
                    "undone_by": each.undone_by,
                }
                for each in self.steps
            ],
        }
        encoded = json.dumps(shape, sort_keys=True, separators=(",", ":")).encode()
        return hashlib.sha256(encoded).hexdigest()[:32]

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"


def _check(definition: SagaDefinition[Any]) -> None:
    name = definition.name
    if not NAME.fullmatch(name):
        raise DefinitionError(
            f"saga name {name!r}: use 1 to 60 lower case letters, digits and underscores"
        )
    if name == RESERVED:
        raise DefinitionError(f"saga name {name!r} is the engine's own; choose the business's word")
    if definition.version < 1:
        raise DefinitionError(f"saga {name!r}: versions count from 1")
    if not definition.steps:
        raise DefinitionError(f"saga {name!r} has no steps; add at least one")
    payload: object = definition.payload
    if not (isinstance(payload, type) and issubclass(payload, BaseModel)):
        raise DefinitionError(f"saga {name!r}: payload must be a pydantic model class")
    _check_attributes(definition)
    _check_names(definition)
    _check_order(definition)
    _check_pivot(definition)
    for each in definition.steps:
        _check_undo(definition, each)


def _check_attributes(definition: SagaDefinition[Any]) -> None:
    unknown = [
        each for each in definition.attributes if each not in definition.payload.model_fields
    ]
    if unknown:
        fields = ", ".join(definition.payload.model_fields)
        raise DefinitionError(
            f"saga {definition.name!r}: attributes {unknown} are not payload fields ({fields})"
        )


def _check_names(definition: SagaDefinition[Any]) -> None:
    seen: set[str] = set()
    for each in definition.steps:
        if each.name in seen:
            raise DefinitionError(
                f"saga {definition.name!r} has two steps named {each.name!r}; rename one"
            )
        seen.add(each.name)


def _check_order(definition: SagaDefinition[Any]) -> None:
    written: set[str] = set()
    for each in definition.steps:
        for predecessor in each.after or ():
            if predecessor not in written:
                raise DefinitionError(
                    f"step {each.name!r} comes after {predecessor!r}, which is not written before "
                    "it; move it up or correct the name"
                )
        written.add(each.name)


def _check_pivot(definition: SagaDefinition[Any]) -> None:
    pivots = [each.name for each in definition.steps if each.kind is Kind.PIVOT]
    if len(pivots) > 1:
        raise DefinitionError(f"saga {definition.name!r} has pivots {pivots}; keep one")
    downstream = _reachable(definition, pivots[0]) if pivots else frozenset[str]()
    for each in definition.steps:
        if each.kind is Kind.RETRIABLE and each.name not in downstream:
            raise DefinitionError(
                f"step {each.name!r} is retriable but not after a pivot; put it after the pivot, "
                "or drop retriable=True and give it a compensation"
            )
        if each.kind is Kind.COMPENSATABLE and each.name in downstream:
            raise DefinitionError(
                f"step {each.name!r} comes after the pivot {pivots[0]!r} and could fail for good "
                "when nothing can be taken back; order it before the pivot or declare it "
                "retriable=True"
            )
        if pivots and each.name not in downstream and each.kind is Kind.COMPENSATABLE:
            _check_upstream(definition, each, pivots[0])


def _check_upstream(definition: SagaDefinition[Any], each: Step, pivot: str) -> None:
    if pivot not in _reachable(definition, each.name):
        raise DefinitionError(
            f"step {each.name!r} runs beside the pivot {pivot!r} and could fail after it; let the "
            f"pivot come after it (after=[..., {each.name!r}])"
        )


def _reachable(definition: SagaDefinition[Any], start: str) -> frozenset[str]:
    found: set[str] = set()
    open_names = [start]
    while open_names:
        for name in definition.before[open_names.pop()]:
            if name not in found:
                found.add(name)
                open_names.append(name)
    return frozenset(found)


def _check_undo(definition: SagaDefinition[Any], each: Step) -> None:
    needs_no_undo = each.read_only or each.kind is not Kind.COMPENSATABLE
    if each.compensation is None and each.no_compensation is None and not needs_no_undo:
        raise DefinitionError(
            f"step {each.name!r} of {definition.name!r} has effects but no compensation: add "
            'compensation=..., or say no_compensation="none, because ..."'
        )
    if each.compensation is not None and each.kind is Kind.RETRIABLE:
        raise DefinitionError(
            f"step {each.name!r} comes after the pivot and is never undone; drop its compensation"
        )
    if each.undone_by is None:
        return
    if each.compensation is None:
        raise DefinitionError(f"step {each.name!r} has undone_by but no compensation of its own")
    if each.undone_by not in _reachable(definition, each.name):
        raise DefinitionError(
            f"step {each.name!r}: undone_by names {each.undone_by!r}, which is not a later step"
        )
    if definition.step(each.undone_by).compensation is None:
        raise DefinitionError(
            f"step {each.name!r}: {each.undone_by!r} has no compensation that could undo it"
        )
