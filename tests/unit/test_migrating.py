"""Moving a parked saga to a newer version: what is written, and what does not fit."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator.definition import Migration, SagaDefinition, Step
from orchestrator.entries import OperatorActed, SagaMigrated, StepSkipped, StepSucceeded
from orchestrator.errors import PayloadError, UnknownDefinitionError
from orchestrator.keys import key_of
from orchestrator.money_at_risk import money_at_risk
from orchestrator.state import State
from orchestrator.storage.rows import Migrated
from recovery.operator.deciding import Plan, decided
from recovery.operator.refusals import RefusedError
from recovery.operator.verbs import MarkDone, MarkNotDone, Migrate, Retry, Skip
from tests.histories import COMPENSATE, FORWARD, History, doing, saga
from tests.operators import ADA, case_of
from tests.operators import plan as said

TO_2 = Migrate(version=2)
RESERVE, PAY, SHIP = doing("reserve"), doing("pay"), doing("ship", pivot=True)
OLD = saga(RESERVE, PAY, SHIP)


class Parcel(BaseModel):
    """What the newer version is started with."""

    cents: int
    gift: bool = False
    note: str = "moved"


def newer(*steps: Step, **migration: Any) -> SagaDefinition[Any]:
    options = {"payload": migration.pop("model")} if "model" in migration else {}
    attributes = migration.pop("attributes", ())
    return saga(
        *steps, version=2, attributes=attributes, migrates={1: Migration(**migration)}, **options
    )


def parked() -> History:
    """Nobody knows whether `pay` happened."""
    history = History(OLD, amount=5).succeeds("reserve", reference="r-1")
    for _ in range(3):
        history.unknown("pay")
    assert history.visible is State.STUCK
    return history.later(hours=1)


def plan(history: History, to: SagaDefinition[Any] | None) -> Plan:
    others = [] if to is None else [to]
    return decided(case_of(history, *others), TO_2, ADA, to)


def test_the_saga_stays_parked_and_goes_on_under_the_newer_version_when_retried() -> None:
    to = newer(RESERVE, doing("charge"), doing("weigh"), SHIP, renamed={"pay": "charge"})
    history = parked()
    found = plan(history, to)
    assert found.entries == (
        OperatorActed(verb="migrate-saga", actor="ada", reason="called the bank"),
        SagaMigrated(
            version=2,
            definition_hash=to.hash,
            payload={"amount": 5, "gift": False},
            renamed={"pay": "charge"},
        ),
    )
    history.definition = to
    history.records(*found.entries)
    assert history.visible == "stuck"
    history.records(*decided(case_of(history), Retry(), ADA).entries)
    assert history.wants == ["charge#4"]
    history.succeeds("charge", "weigh", "ship")
    assert history.visible is State.COMPLETED


def test_what_the_row_says_then() -> None:
    to = newer(RESERVE, PAY, SHIP, attributes=["amount"])
    assert plan(parked(), to).migrated == Migrated(
        version=2, definition_hash=to.hash, attributes={"amount": 5}
    )


def test_the_payload_is_made_and_checked_by_the_newer_version() -> None:
    to = newer(RESERVE, PAY, SHIP, model=Parcel, payload=lambda old: {"cents": 100 * old["amount"]})
    migrated = plan(parked(), to).entries[1]
    assert isinstance(migrated, SagaMigrated)
    assert migrated.payload == {"cents": 500, "gift": False, "note": "moved"}


@pytest.mark.parametrize(
    "payload",
    [lambda _: {"dollars": 5}, lambda old: old["missing"], None],
    ids=["of another shape", "that cannot be made", "as it was"],
)
def test_a_payload_that_does_not_fit_is_refused(payload: Any) -> None:
    to = newer(RESERVE, PAY, SHIP, model=Parcel, payload=payload)
    with pytest.raises(PayloadError):
        plan(parked(), to)


def test_conditions_of_new_steps_are_decided_with_the_new_payload() -> None:
    def is_gift(order: Any) -> bool:
        return bool(order.gift)

    to = newer(
        RESERVE,
        PAY,
        doing("wrap", when=is_gift),
        doing("weigh", when=lambda order: not order.gift),
        SHIP,
    )
    entries = plan(parked(), to).entries
    assert [each.step for each in entries if isinstance(each, StepSkipped)] == ["wrap"]


@pytest.mark.parametrize(
    ("steps", "renamed", "why"),
    [
        ((RESERVE, SHIP), {}, "pay ran, and no step is its counterpart"),
        ((PAY, SHIP), {"reserve": "hold"}, "reserve ran, and no step is its counterpart"),
        ((PAY, SHIP), {"reserve": "pay"}, "would be pay"),
        (
            (RESERVE, doing("charge"), PAY, SHIP),
            {"pay": "charge"},
            "heard of pay late would be taken for another step's",
        ),
        (
            (RESERVE, doing("pay", no_compensation="none, because"), SHIP),
            {},
            "pay ran as compensatable with an undo, and pay is compensatable without an undo",
        ),
        ((RESERVE, doing("pay", pivot=True)), {}, "pay is pivot without an undo"),
        (
            (doing("reserve", transactional=True), PAY, SHIP),
            {},
            "reserve is compensatable with an undo in the engine's transaction",
        ),
    ],
    ids=lambda each: None if isinstance(each, tuple | dict) else str(each),
)
def test_a_step_that_ran_needs_a_counterpart_that_is_undone_alike(
    steps: tuple[Step, ...], renamed: dict[str, str], why: str
) -> None:
    with pytest.raises(RefusedError, match=why):
        plan(parked(), newer(*steps, renamed=renamed))


def test_a_step_that_never_ran_needs_no_counterpart() -> None:
    to = newer(RESERVE, PAY, doing("hand_over", pivot=True))
    assert plan(parked(), to).migrated is not None


def test_the_undo_of_a_renamed_step_is_the_newer_ones() -> None:
    history = History(OLD).succeeds("reserve").declined("pay").finds_nothing("pay")
    history.declined("reserve", COMPENSATE).later(hours=1)
    to = newer(doing("hold"), PAY, SHIP, renamed={"reserve": "hold"})
    found = plan(history, to)
    history.definition = to
    history.records(*found.entries)
    assert history.state.parked is not None
    assert history.state.parked.steps == ["hold"]
    history.records(*decided(case_of(history), Retry(), ADA).entries)
    assert history.wants == ["undo hold#2"]
    assert history.undoes("hold").visible is State.COMPENSATED


def test_only_a_parked_saga_is_moved() -> None:
    with pytest.raises(RefusedError, match="only a parked saga is moved; it is running"):
        plan(History(OLD), newer(RESERVE, PAY, SHIP))


def test_the_newer_version_declares_that_it_takes_the_older_one() -> None:
    undeclared = replace(newer(RESERVE, PAY, SHIP), migrates={})
    with pytest.raises(RefusedError, match="does not declare"):
        plan(parked(), undeclared)
    history = parked()
    history.definition = replace(OLD, version=3)
    backwards = newer(RESERVE, PAY, SHIP)
    with pytest.raises(RefusedError, match="does not declare"):
        plan(history, replace(backwards, migrates={3: Migration()}))


def test_a_version_that_is_not_here_is_refused_the_old_one_too() -> None:
    with pytest.raises(UnknownDefinitionError, match="shop v2"):
        plan(parked(), None)
    to = newer(RESERVE, PAY, SHIP)
    with pytest.raises(UnknownDefinitionError, match="shop v1"):
        decided(case_of(parked(), to, known=False), TO_2, ADA, to)


def renamed(history: History) -> History:
    """The saga after it went on under a version that charges instead of paying."""
    to = newer(RESERVE, doing("charge"), SHIP, renamed={"pay": "charge"})
    found = plan(history, to)
    history.definition = to
    return history.records(*found.entries)


def test_a_renamed_step_keeps_its_key() -> None:
    """Else what may have happened under the old one would happen once more."""
    history = parked()
    before = key_of(history.state, "shop", "order-1", "pay", FORWARD)
    assert key_of(renamed(history).state, "shop", "order-1", "charge", FORWARD) == before


def test_a_late_effect_is_undone_under_the_name_that_its_step_has_now() -> None:
    history = renamed(parked())
    history.records(*said(history, MarkNotDone(step="charge", take_back=True)).entries)
    history.finds_nothing("charge").undoes("reserve")
    assert history.visible is State.COMPENSATED
    history.late("pay", attempt=1, reference="pay-1")
    assert history.wants == ["undo charge#2"]


def test_the_money_of_a_renamed_step_is_still_its_own() -> None:
    history = History(OLD).claims("reserve").succeeds("reserve").claims("pay")
    moved = {"kind": "capture", "amount_minor": 1990, "currency": "EUR", "reference": "pay-1"}
    history.records(
        StepSucceeded(
            step="pay", direction=FORWARD, attempt=1, reference="pay-1", movements=[moved]
        )
    )
    history.declined("ship").declined("pay", COMPENSATE).undoes("reserve").later(hours=1)
    renamed(history)
    with pytest.raises(RefusedError, match="1990 EUR"):
        decided(case_of(history), Skip(step="charge"), ADA)
    done = MarkDone(step="charge", reference="transfer-9")
    history.records(*said(history, done).entries)
    assert history.visible is State.COMPENSATED
    assert money_at_risk(history.log) == {}


def test_a_key_keeps_its_age_when_its_step_is_renamed() -> None:
    """Else an old key would be used as if it were young."""
    old_pay = doing("pay", key_life=timedelta(hours=1))
    history = History(saga(old_pay, SHIP)).claims("pay")
    for _ in range(3):
        history.unknown("pay")
    history.later(hours=2)
    to = newer(doing("charge", key_life=timedelta(hours=1)), SHIP, renamed={"pay": "charge"})
    found = plan(history, to)
    history.definition = to
    history.records(*found.entries)
    with pytest.raises(RefusedError, match="too old"):
        decided(case_of(history), Retry(), ADA)
