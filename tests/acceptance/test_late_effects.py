"""An effect that is heard of late is not dropped: it is taken back wherever the saga stands."""

from __future__ import annotations

import signal
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from orchestrator.context import Effect
from orchestrator.entries import LateOutcomeRecorded, StepSucceeded, UndoFailed, UnwindingStarted
from orchestrator.state import State
from steps.gateways.payment import ChargeRequest
from steps.gateways.sandbox.client import SandboxGateway
from steps.money import Money
from tests.deployment import Deployment, Member, payload
from tests.hasty_checkouts import FORGETFUL, HASTY
from tests.worker_processes import until


@pytest.fixture
def shop(deployment: Deployment) -> Deployment:
    deployment.definitions += [HASTY, FORGETFUL]
    deployment.variables |= {
        "sweep_seconds": 0.5,
        "lease_seconds": 3,
        "sagas": "tests.hasty_checkouts",
    }
    return deployment


def start(shop: Deployment, key: str, **changes: Any) -> UUID:
    return shop.client.start(HASTY, payload(key, **changes), key=key).id


def is_in(shop: Deployment, saga_id: UUID, state: State) -> bool:
    return shop.client.get(saga_id).state is state


def kinds(shop: Deployment, saga_id: UUID) -> list[str]:
    return [type(each.entry).__name__ for each in shop.entries(saga_id)]


def two_charges(
    shop: Deployment,
    key: str,
    *,
    second: str | None = None,
    sagas: str = "tests.hasty_with_long_calls",
) -> tuple[UUID, Member]:
    """Stop a worker behind a charge; let the gateway forget its key, so that another charges again.

    Returns once the saga has ended with the second charge, or with its refusal.
    """
    shop.judge.script("hold_after", operation="authorize", order_reference=key)
    shop.variables |= {"sagas": sagas, "gateway_timeout_seconds": 150}
    workers = shop.start_workers(2)
    saga_id = start(shop, key)
    [holder] = shop.wait_held(1)
    shop.judge.script("forget_key", operation="authorize", order_reference=key, times=None)
    if second is not None:
        shop.judge.script(second, operation="authorize", order_reference=key, times=None)
        shop.judge.script("not_found", operation="find", times=None)
    stopped = next(each for each in workers if each.owns(holder.pid))
    stopped.signal(signal.SIGSTOP)
    until(lambda: shop.client.get(saga_id).is_terminal, seconds=60, what="the end of the saga")
    shop.judge.clear_faults()
    shop.judge.release()
    return saga_id, stopped


def heard_late(shop: Deployment, saga_id: UUID) -> None:
    def is_acted_on() -> bool:
        return kinds(shop, saga_id)[-1] != "LateOutcomeRecorded"

    until(lambda: "LateOutcomeRecorded" in kinds(shop, saga_id), what="the late outcome")
    until(is_acted_on, what="the decision that it leads to")
    until(lambda: shop.client.get(saga_id).is_terminal, seconds=60, what="the end, again")


def test_a_second_charge_of_a_completed_saga_is_taken_back_alone(shop: Deployment) -> None:
    saga_id, stopped = two_charges(shop, "o-1")
    assert is_in(shop, saga_id, State.COMPLETED)

    stopped.signal(signal.SIGCONT)
    heard_late(shop, saga_id)

    assert is_in(shop, saga_id, State.COMPLETED)
    causes = [e.entry.cause for e in shop.entries(saga_id) if isinstance(e.entry, UnwindingStarted)]
    assert causes == ["second_effect"]
    totals = shop.judge.totals_of("o-1")
    assert totals is not None
    assert totals.authorizations_count == 2
    assert totals.kept_minor == 1990
    assert totals.open_holds_count == 0


def test_without_late_outcomes_money_stays_on_hold_and_it_is_noticed(shop: Deployment) -> None:
    saga_id, stopped = two_charges(shop, "o-2", sagas="tests.hasty_without_late_effects")

    stopped.signal(signal.SIGCONT)
    until(lambda: bool(stopped.events("saga.stale_result_refused")), what="the refusal")

    assert is_in(shop, saga_id, State.COMPLETED)
    found = shop.violations({})
    assert any(each.startswith("money is conserved") for each in found), found


def test_a_charge_that_is_heard_of_after_the_saga_was_compensated_is_taken_back(
    shop: Deployment,
) -> None:
    saga_id, stopped = two_charges(shop, "o-3", second="decline")
    assert is_in(shop, saga_id, State.COMPENSATED)

    stopped.signal(signal.SIGCONT)
    heard_late(shop, saga_id)

    assert is_in(shop, saga_id, State.COMPENSATED)
    assert any(isinstance(each.entry, LateOutcomeRecorded) for each in shop.entries(saga_id))
    assert shop.violations({State.COMPENSATED: 1}) == []


def test_a_charge_that_others_prove_after_the_end_is_taken_back_once(shop: Deployment) -> None:
    shop.start_worker()
    saga_id = start(shop, "o-4", payment_method="tok_declined")
    until(lambda: is_in(shop, saga_id, State.COMPENSATED), what="the compensation")
    gateway = SandboxGateway(shop.variables["gateway_url"], timeout=timedelta(seconds=5))
    price = Money(minor=1990, currency="EUR")
    request = ChargeRequest(amount=price, token="tok_ok", order_reference="o-4")
    proof = gateway.authorize(request, key="somebody-elses", timeout_seconds=5)
    gateway.close()
    knowing = shop.knowing_client()

    for _ in range(2):
        knowing.report_effect(
            saga_id, "authorize_payment", Effect(reference=proof.reference), by="webhook"
        )

    until(lambda: is_in(shop, saga_id, State.COMPENSATED), seconds=60, what="the end, again")
    until(lambda: shop.client.get(saga_id).is_terminal, what="rest")
    assert kinds(shop, saga_id).count("EffectReported") == 1
    totals = shop.judge.totals_of("o-4")
    assert totals is not None
    assert totals.is_clean


def test_a_refund_that_fails_later_is_made_again_under_a_new_key(shop: Deployment) -> None:
    shop.judge.script("refuse", operation="ship", order_reference="o-5", times=None)
    shop.judge.script("refund_pending", operation="refund", order_reference="o-5", times=1)
    shop.start_worker()
    saga_id = start(shop, "o-5")
    until(lambda: "SagaParked" in kinds(shop, saga_id) or _refunded(shop), what="the refund")
    until(lambda: _undone(shop, saga_id), what="everything undone but the refund's settlement")
    assert is_in(shop, saga_id, State.COMPENSATING)
    [refund] = [row for row in shop.judge.movements() if row.operation == "refund"]
    pending = _refund_reference(shop, saga_id)

    shop.judge.end_refund(pending, failed=True)
    shop.knowing_client().report_undo_failed(saga_id, "capture_payment", pending, by="webhook")

    until(lambda: is_in(shop, saga_id, State.COMPENSATED), seconds=60, what="the compensation")
    assert any(isinstance(each.entry, UndoFailed) for each in shop.entries(saga_id))
    keys = {row.key for row in shop.judge.movements() if row.operation == "refund"}
    assert len(keys) == 2
    assert refund.key in keys
    totals = shop.judge.totals_of("o-5")
    assert totals is not None
    assert totals.is_clean


def _refunded(shop: Deployment) -> bool:
    return any(row.operation == "refund" for row in shop.judge.movements())


def _undone(shop: Deployment, saga_id: UUID) -> bool:
    return any(
        isinstance(each.entry, StepSucceeded)
        and (each.entry.step, each.entry.direction) == ("reserve_inventory", "compensate")
        for each in shop.entries(saga_id)
    )


def _refund_reference(shop: Deployment, saga_id: UUID) -> str:
    [reference] = [
        movement["reference"]
        for each in shop.entries(saga_id)
        for movement in getattr(each.entry, "movements", None) or ()
        if movement["kind"] == "refund"
    ]
    return str(reference)
