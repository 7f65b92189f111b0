"""Looking before acting: what a verb would do, written nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from orchestrator.context import CannotTell, NotLanded
from orchestrator.entries import Entry, EvidenceAsserted
from orchestrator.state import State
from recovery.operator.operator import Operator
from recovery.operator.refusals import RefusedError
from recovery.operator.verbs import (
    MarkDone,
    MarkNotDone,
    Verb,
)
from tests.integration.engine import Engine
from tests.integration.operating.world import (
    ADA,
    LOST,
    PAID,
    World,
    everything,
    undone,
    unknown,
)
from tests.operators import EVERY


@pytest.mark.parametrize("verb", EVERY, ids=lambda verb: verb.name)
def test_a_preview_writes_nothing_and_says_what_would_be_written(
    engine: Engine, operator: Operator, world: World, verb: Verb
) -> None:
    saga_id = unknown(engine, world, "askable")
    world.found = NotLanded()
    before, asked = everything(engine), world.asked
    seen = operator.preview(saga_id, verb, ADA)
    assert everything(engine) == before
    assert world.asked > asked
    done = operator.act(saga_id, verb, ADA, seen=seen.saga.seq)
    assert _but_for_the_moment(done.writes) == _but_for_the_moment(seen.writes)
    assert (done.follows, done.runs) == (seen.follows, seen.runs)
    assert done.state == seen.state
    written = engine.entries(saga_id)[seen.saga.seq :]
    expected = [*seen.writes, *seen.follows]
    assert _but_for_the_moment(written) == _but_for_the_moment(expected)


def test_a_preview_shows_what_the_other_side_shows_now(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = unknown(engine, world, "askable")
    verb = MarkDone(step="pay", reference="pay-1")
    world.found = PAID
    [answer] = operator.preview(saga_id, verb, ADA).gateway or ()
    assert (answer.landed, answer.reference) == (True, "pay-1")
    assert answer.movements is not None
    assert answer.movements[0]["amount_minor"] == 1990
    world.found = NotLanded("no such payment")
    [answer] = operator.preview(saga_id, verb, ADA).gateway or ()
    assert (answer.landed, answer.why) == (False, "no such payment")
    world.found = LOST
    [answer] = operator.preview(saga_id, verb, ADA).gateway or ()
    assert answer.landed is None
    assert "no answer" in str(answer.why)


def test_a_preview_says_so_where_nobody_can_be_asked(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = undone(engine, world)
    world.under = CannotTell("closed")
    seen = operator.preview(saga_id, MarkDone(step="pay", reference="transfer-9"), ADA)
    [answer] = seen.gateway or ()
    assert "no probe" in str(answer.why)
    assert seen.money["EUR"].captured_minor == 1990
    assert [(each.step, each.reference, each.undone) for each in seen.effects] == [
        ("pay", "pay-1", False)
    ]
    assert seen.state is State.FAILED_COMPENSATION
    assert seen.assertion is not None
    assert "closed" in seen.assertion.why


def test_a_preview_of_what_the_other_side_denies_is_refused_with_what_it_has(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = unknown(engine, world, "askable")
    world.found = PAID
    with pytest.raises(RefusedError, match="the other side has pay-1"):
        operator.preview(saga_id, MarkNotDone(step="pay"), ADA)


def _but_for_the_moment(entries: Sequence[Entry]) -> list[Entry]:
    """An assertion is valid for a day from when it is made."""
    return [
        replace(each, until="") if isinstance(each, EvidenceAsserted) else each for each in entries
    ]


def test_what_is_recommended_is_not_refused(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = unknown(engine, world)
    words = [each.command.split()[1] for each in operator.recommended(saga_id)]
    assert words == ["retry", "mark-done", "mark-not-done", "mark-not-done", "resolve"]
