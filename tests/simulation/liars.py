"""Operators who lie, alone or with somebody who confirms it, by the verbs that operators have."""

from __future__ import annotations

from random import Random

from orchestrator.coordinator import Coordinator
from orchestrator.entries import Entry
from orchestrator.errors import PayloadError
from recovery.operator.cases import Case
from recovery.operator.deciding import NOT_NEEDED, asked, decided
from recovery.operator.evidence import look
from recovery.operator.identity import Identity, IdentityKind
from recovery.operator.refusals import RefusedError
from recovery.operator.verbs import By, Confirm, MarkDone, MarkNotDone, Skip, Verb

LIAR = Identity(kind=IdentityKind.OS_USER, name="mallory")
COLLUDER = Identity(kind=IdentityKind.OS_USER, name="eve")
CONFIRMERS = (None, LIAR, COLLUDER, COLLUDER)


def lie(rng: Random, case: Case, names: list[str]) -> Verb:
    """Return something that may be said of a parked saga, whether it is true or not."""
    assert case.parked is not None, "only of a parked saga something is asked"
    step = rng.choice(case.parked.steps or [each.name for each in case.definition.steps])
    reference = rng.choice(["nonsense", *names, *(f"undo-{each}" for each in names)])
    verbs: list[Verb] = [
        MarkDone(step=step, reference=reference),
        MarkNotDone(step=step),
        Skip(step=step),
    ]
    return rng.choice(verbs)


def said(coordinator: Coordinator, case: Case, verb: Verb, who: Identity) -> tuple[Entry, ...]:
    """Return what the verb writes in somebody's name: nothing where it is refused."""
    by = By(actor=who.name, reason="I say so", identity=who)
    try:
        decided(case, verb, by, None, NOT_NEEDED)
        question = asked(case, verb)
        if question is None:
            return decided(case, verb, by).entries
        return decided(case, verb, by, None, look(coordinator, case, question)).entries
    except (RefusedError, PayloadError):
        return ()


def confirmation() -> Confirm:
    """Return the verb of a second person."""
    return Confirm()
