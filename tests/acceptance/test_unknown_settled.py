"""Nobody was told what a call did: it is asked again, then asked about, and never guessed."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import pytest

from orchestrator.entries import (
    Entry,
    SagaParked,
    StepProbed,
    StepSettled,
    StepStarted,
    StepUnknown,
    UnwindingStarted,
)
from orchestrator.state import State
from tests.deployment import Deployment, payload
from tests.hasty_checkouts import FORGETFUL, FORGETS, HASTY, QUIET_SECONDS
from tests.worker_processes import until

AUTHORIZE = "authorize_payment"


@pytest.fixture
def shop(deployment: Deployment) -> Deployment:
    deployment.definitions += [HASTY, FORGETFUL]
    deployment.variables |= {"sweep_seconds": 0.5, "sagas": "tests.hasty_checkouts"}
    return deployment


def start(shop: Deployment, key: str, definition: Any = HASTY) -> UUID:
    return shop.client.start(definition, payload(key), key=key).id


def log(shop: Deployment, saga_id: UUID, kind: type[Entry]) -> list[Any]:
    return [each.entry for each in shop.entries(saga_id) if isinstance(each.entry, kind)]


def ends(shop: Deployment, saga_id: UUID, seconds: float = 60.0) -> State:
    until(
        lambda: shop.client.get(saga_id).is_terminal or shop.client.get(saga_id).is_parked,
        seconds=seconds,
        what="the end of the saga",
    )
    return shop.client.get(saga_id).state


def charges(shop: Deployment, key: str) -> int:
    totals = shop.judge.totals_of(key)
    return 0 if totals is None else totals.authorizations_count


def test_an_effect_behind_a_kept_failure_is_found_though_the_lookup_is_down_for_a_while(
    shop: Deployment,
) -> None:
    shop.judge.script("stored_500", operation="authorize", order_reference="o-1", lands=True)
    shop.judge.script("drop_before", operation="find", times=5)
    shop.start_worker()

    saga_id = start(shop, "o-1")

    assert ends(shop, saga_id) is State.COMPLETED
    assert log(shop, saga_id, StepProbed)[-1].landed
    assert charges(shop, "o-1") == 1
    assert shop.violations({State.COMPLETED: 1}) == []


def test_what_did_not_land_is_believed_when_said_twice_late_enough_and_done_under_a_new_key(
    shop: Deployment,
) -> None:
    shop.judge.script("stored_500", operation="authorize", order_reference="o-2", lands=False)
    shop.start_worker()

    saga_id = start(shop, "o-2")

    assert ends(shop, saga_id) is State.COMPLETED
    denials = [each for each in shop.entries(saga_id) if _denies(each.entry)]
    [settled] = log(shop, saga_id, StepSettled)
    assert (settled.landed, settled.by) == (False, "probe")
    assert charges(shop, "o-2") == 1
    begun = [
        each.at
        for each in shop.entries(saga_id)
        if isinstance(each.entry, StepStarted)
        and each.entry.direction == "forward"
        and each.entry.step == AUTHORIZE
    ]
    believed = [
        each.at for each in denials if (each.at - begun[-2]).total_seconds() > QUIET_SECONDS
    ]
    assert len(denials) > 2
    assert len(believed) >= 2  # one of them may have been asked for just before
    assert shop.violations({State.COMPLETED: 1}) == []


def test_a_key_that_the_gateway_may_have_forgotten_is_not_used_again(shop: Deployment) -> None:
    saga_id = lose_the_answer_and_the_key(shop, "o-3", FORGETFUL)

    assert ends(shop, saga_id) is State.COMPLETED
    assert len(log(shop, saga_id, StepProbed)) == 1
    assert charges(shop, "o-3") == 1
    assert shop.violations({State.COMPLETED: 1}) == []


def test_without_the_keys_life_the_payer_is_charged_twice_and_it_is_noticed(
    shop: Deployment,
) -> None:
    saga_id = lose_the_answer_and_the_key(shop, "o-4", HASTY)

    ends(shop, saga_id)

    assert charges(shop, "o-4") == 2
    found = shop.violations({})
    assert any(each.startswith("one effect per step") for each in found), found


def test_what_nobody_can_tell_parks_with_the_question_and_is_not_charged_twice(
    shop: Deployment,
) -> None:
    shop.judge.script("drop_before", operation="find", times=None)
    saga_id = lose_the_answer_and_the_key(shop, "o-5", FORGETFUL)

    assert ends(shop, saga_id) is State.STUCK
    [parked] = log(shop, saga_id, SagaParked)
    assert parked.question.startswith("Did authorize_payment take effect?")
    assert parked.steps == [AUTHORIZE]
    assert charges(shop, "o-5") == 1


def lose_the_answer_and_the_key(shop: Deployment, key: str, definition: Any) -> UUID:
    """Charge, kill the worker before it hears, and let the gateway forget the key meanwhile."""
    shop.variables["lease_seconds"] = 2
    shop.judge.script("hold_after", operation="authorize", order_reference=key)
    worker = shop.start_worker()
    saga_id = start(shop, key, definition)
    shop.wait_held(1)
    held = time.monotonic()
    worker.kill()
    shop.judge.release()
    shop.judge.script("forget_key", operation="authorize", order_reference=key, times=None)
    old = FORGETS.total_seconds() / 2  # until then the key is young, and used again
    until(lambda: time.monotonic() - held > old, what="the age of the key")
    until(
        lambda: shop.judge.totals_of(key) is not None and not shop.judge.open_requests(),
        what="the charge",
    )
    shop.start_worker()
    return saga_id


def test_nothing_is_taken_back_while_its_effect_is_unknown(shop: Deployment) -> None:
    saga_id = cancel_while_unknown(shop, "o-6")

    assert ends(shop, saga_id) is State.COMPENSATED
    kinds = [type(each.entry).__name__ for each in shop.entries(saga_id)]
    assert kinds.index("StepUnknown") < kinds.index("UnwindingStarted")
    assert log(shop, saga_id, UnwindingStarted)[0].cause == "cancelled"
    assert shop.violations({State.COMPENSATED: 1}) == []


def test_without_settling_first_it_is_noticed(shop: Deployment) -> None:
    shop.variables["sagas"] = "tests.hasty_without_settling"
    saga_id = cancel_while_unknown(shop, "o-7")

    ends(shop, saga_id)

    found = shop.violations({})
    assert any(each.startswith("unknown is settled before") for each in found), found


def cancel_while_unknown(shop: Deployment, key: str) -> UUID:
    shop.judge.script("drop_after", operation="authorize", order_reference=key, times=2)
    shop.judge.script(
        "slow_before", operation="authorize", order_reference=key, delay_ms=1500, times=None
    )
    shop.start_worker()
    saga_id = start(shop, key)
    until(lambda: bool(log(shop, saga_id, StepStarted)[2:]), what="the authorization")
    shop.client.cancel(saga_id, reason="changed my mind")
    until(lambda: bool(log(shop, saga_id, StepUnknown)), what="the lost answer")
    return saga_id


def _denies(entry: Entry) -> bool:
    return isinstance(entry, StepProbed) and entry.landed is False
