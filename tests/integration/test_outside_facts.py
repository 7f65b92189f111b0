"""What others tell of a saga while its row is held, twice at once, or under another version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from uuid import UUID

import pytest

from orchestrator import mover, outside_facts
from orchestrator.claiming import Claim
from orchestrator.context import Effect
from orchestrator.definition import Migration
from orchestrator.entries import (
    EffectReported,
    LateOutcomeRecorded,
    MovementSettled,
    SagaMigrated,
)
from orchestrator.errors import InvalidKeyError, LogUnavailableError, PayloadError
from orchestrator.outcomes import told
from orchestrator.seam import intercepted
from orchestrator.storage.rows import Migrated
from tests.histories import doing, saga
from tests.integration.engine import Engine
from tests.integration.test_delivering import SAGA_ROW, held

T = TypeVar("T")


def charge(_context: Any) -> Effect:
    return Effect(reference="ch_1")


def refund(_context: Any) -> Effect:
    return Effect(reference="re_1")


PAY = doing("pay", run=charge, compensation=refund)
SHOP = saga(PAY, doing("pack"))
NEWER = saga(
    doing("charge", run=charge, compensation=refund),
    doing("pack"),
    version=2,
    migrates={1: Migration(renamed={"pay": "charge"})},
)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


@pytest.fixture
def newer(database: str) -> Iterator[Engine]:
    made = Engine(database, NEWER)
    yield made
    made.close()


def start(engine: Engine) -> UUID:
    return engine.client.start(SHOP, {}, key="order-1").id


def migrated(engine: Engine, saga_id: UUID) -> None:
    snapshot = engine.coordinator.log.read(saga_id)
    assert snapshot is not None
    entry = SagaMigrated(
        version=2, definition_hash=NEWER.hash, payload={}, renamed={"pay": "charge"}
    )
    row = Migrated(version=2, definition_hash=NEWER.hash, attributes={})
    saga = snapshot.saga
    assert engine.coordinator.mover.note(saga, [entry], state=saga.state, migrated=row)


@pytest.mark.parametrize(
    "tell",
    [
        lambda client, saga_id: client.cancel(saga_id, reason="no"),
        lambda client, saga_id: client.request_undo(saga_id, reason="no"),
        lambda client, saga_id: client.report_effect(
            saga_id, "pay", Effect(reference="ch_2"), by="webhook"
        ),
    ],
    ids=["cancel", "undo", "effect"],
)
def test_who_tells_of_a_saga_whose_row_is_held_is_asked_to_try_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tell: Callable[[Any, UUID], Any]
) -> None:
    saga_id = start(engine)
    engine.coordinator.execute(engine.claim(saga_id))
    before = engine.kinds(saga_id)
    for module in (mover, outside_facts):
        monkeypatch.setattr(module, "ADD_SECONDS", 0.1)
    with (
        held(engine, SAGA_ROW, id=saga_id),
        pytest.raises(LogUnavailableError, match="try it again"),
    ):
        tell(engine.client, saga_id)
    assert engine.kinds(saga_id) == before
    tell(engine.client, saga_id)
    assert len(engine.kinds(saga_id)) > len(before)


def test_an_undo_that_two_report_as_failed_at_once_failed_once(engine: Engine) -> None:
    saga_id = start(engine)
    engine.coordinator.execute(engine.claim(saga_id))
    engine.client.cancel(saga_id, reason="no")
    assert engine.finish(saga_id) == "compensated"

    def report() -> None:
        engine.client.report_undo_failed(saga_id, "pay", "re_1", by="webhook")

    twice: list[str] = []

    def interceptor(name: str, action: Callable[[], T]) -> T:
        if name == "decide.commit" and not twice:
            twice.append(name)
            report()
        return action()

    with intercepted(interceptor):
        report()
    assert twice
    assert engine.kinds(saga_id).count("UndoFailed") == 1


def lost(engine: Engine, saga_id: UUID) -> Claim:
    """A claim whose worker is given up and comes back later."""
    claim = engine.claim(saga_id)
    assert engine.gives_up(claim)
    return claim


def test_a_late_effect_of_a_saga_that_goes_on_under_another_version_is_kept(
    engine: Engine, newer: Engine
) -> None:
    saga_id = start(engine)
    claim = lost(engine, saga_id)
    migrated(engine, saga_id)
    engine.coordinator.execute(claim)
    late = [each for each in newer.entries(saga_id) if isinstance(each, LateOutcomeRecorded)]
    assert [each.reference for each in late] == ["ch_1"]
    assert newer.finish(saga_id) == "completed"


def test_an_effect_is_believed_under_the_name_that_its_step_has_now(
    engine: Engine, newer: Engine
) -> None:
    saga_id = start(engine)
    lost(engine, saga_id)
    migrated(engine, saga_id)
    newer.client.report_effect(saga_id, "charge", Effect(reference="ch_1"), by="webhook")
    assert isinstance(newer.entries(saga_id)[-1], EffectReported)


TOO_LONG = "x" * 5000
CARD = "4242424242424242"


@pytest.mark.parametrize("bad", ["", "\x00", "\ud800", TOO_LONG, CARD])
@pytest.mark.parametrize(
    "tell",
    [
        lambda client, _, bad: client.signal((bad, "order-1"), "paid", dedup_id="1"),
        lambda client, _, bad: client.signal(("shop", bad), "paid", dedup_id="1"),
        lambda client, saga_id, bad: client.cancel(saga_id, reason=bad),
        lambda client, saga_id, bad: client.request_undo(saga_id, reason=bad),
    ],
    ids=["definition", "key", "cancel", "undo"],
)
def test_what_cannot_be_stored_is_refused_at_the_door(
    engine: Engine, tell: Callable[[Any, UUID, str], Any], bad: str
) -> None:
    saga_id = start(engine)
    with pytest.raises((PayloadError, InvalidKeyError)):
        tell(engine.client, saga_id, bad)
    assert engine.kinds(saga_id) == ["SagaStarted"]
    assert engine.sql("SELECT * FROM amends.signal") == []


def test_a_settled_movement_bears_the_name_that_the_log_gave_it(engine: Engine) -> None:
    saga_id = start(engine)
    engine.client.report_settled(saga_id, "pay", f"{CARD}\x00", by="webhook")
    [settled] = [each for each in engine.entries(saga_id) if isinstance(each, MovementSettled)]
    assert settled.reference == told("pay", Effect(reference=f"{CARD}\x00"))["reference"]
    assert CARD not in settled.reference
    with pytest.raises(PayloadError, match="needs its reference"):
        engine.client.report_settled(saga_id, "pay", "", by="webhook")
