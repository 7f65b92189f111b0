"""A verb whose evidence nobody could look up: how it is kept until a second person confirms it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from orchestrator.context import Movement
from orchestrator.entries import EvidenceAsserted, Json
from orchestrator.errors import PayloadError
from orchestrator.outcomes import printable
from orchestrator.payloads import to_json
from orchestrator.state import PendingAssertion
from recovery.operator.cases import Case
from recovery.operator.refusals import RefusedError
from recovery.operator.verbs import (
    Abandon,
    By,
    Confirm,
    MarkDone,
    MarkNotDone,
    Resolve,
    Skip,
    Withdraw,
)

VALID_FOR = timedelta(hours=24)
"""How long a second person may take."""

Assertable = MarkDone | MarkNotDone | Skip | Resolve | Abandon
"""The verbs that tell of an effect outside."""


def asserted(case: Case, verb: Assertable, by: By, why: str) -> EvidenceAsserted:
    """Return what is written instead of the verb's own entries.

    Raises:
        RefusedError: nobody in particular says so, so no second person could be another.
    """
    return EvidenceAsserted(
        verb=verb.name,
        step=verb.step,
        words=_words(verb),
        identity=personal(case, by),
        actor=by.actor,
        reason=by.reason,
        until=(case.now + VALID_FOR).isoformat(),
        why=printable(why),
    )


def personal(case: Case, by: By) -> str:
    """Return who acts, in canonical form.

    Raises:
        RefusedError: nobody in particular.
    """
    if by.identity is None or not by.identity.is_personal:
        who = "nobody is authenticated" if by.identity is None else f"{by.identity} is no person's"
        raise RefusedError(
            case.saga,
            f"nobody could look this up, so two persons have to say it, and {who}: connect with a "
            "database role of your own (docs/operating.md, Who you are)",
        )
    return str(by.identity)


def pending(case: Case, verb: Confirm | Withdraw) -> PendingAssertion:
    """Return the assertion that is meant.

    Raises:
        RefusedError: there is none, it has expired or lapsed, or there are several.
    """
    found = [each for each in case.state.assertions if verb.assertion in (None, each.seq)]
    if not found:
        raise RefusedError(
            case.saga,
            "nothing waits for a second person"
            + ("" if verb.assertion is None else f" at seq {verb.assertion}")
            + ": it was confirmed, withdrawn, or the saga has moved on since; `amends show`",
        )
    valid = [each for each in found if case.now < each.until]
    if not valid:
        raise RefusedError(
            case.saga, f"it could be confirmed until {found[-1].until.isoformat()}: say it again"
        )
    if len(valid) > 1:
        which = ", ".join(
            f"--assertion {each.seq} ({each.verb} {each.step or ''})" for each in valid
        )
        raise RefusedError(case.saga, f"several assertions are pending; say which: {which}")
    return valid[0]


def second_person(case: Case, assertion: PendingAssertion, by: By) -> str:
    """Return the canonical identity of who confirms an assertion.

    Raises:
        RefusedError: that may be who made it.
    """
    identity = personal(case, by)
    assert by.identity is not None, "a person is somebody"
    if not by.identity.is_another_than(assertion.identity):
        raise RefusedError(
            case.saga,
            f"{assertion.identity} has said it, and {identity} may be the same person: "
            "somebody else has to confirm it, authenticated in the same way",
        )
    return identity


def verb_of(assertion: PendingAssertion) -> Assertable:
    """Return the verb that was asserted."""
    words: Mapping[str, Any] = assertion.words
    match assertion.verb:
        case MarkDone.name:
            moved = [Movement(**each) for each in words["movements"]]
            return MarkDone(**{**words, "movements": moved})
        case MarkNotDone.name:
            return MarkNotDone(**words)
        case Skip.name:
            return Skip(**words)
        case Resolve.name:
            return Resolve()
        case Abandon.name:
            return Abandon()
        case other:
            raise PayloadError(f"nobody can assert {other!r}; upgrade this process")


def asserted_by(assertion: PendingAssertion) -> By:
    """Return who made an assertion; who they are is in `assertion.identity`."""
    return By(actor=assertion.actor, reason=assertion.reason)


def _words(verb: Assertable) -> dict[str, Json]:
    match verb:
        case MarkDone():
            return {
                "step": verb.step,
                "reference": to_json(verb.reference),
                "result": to_json(verb.result),
                "movements": [
                    {**replace(each, pending=False).as_json(), "pending": each.pending}
                    for each in verb.movements
                ],
                "take_back": verb.take_back,
            }
        case MarkNotDone():
            return {"step": verb.step, "take_back": verb.take_back}
        case Skip():
            return {"step": verb.step}
        case Resolve() | Abandon():
            return {}
