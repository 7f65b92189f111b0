"""The operator's way out, with real workers, a real gateway, and commands typed one by one."""

from __future__ import annotations

import re
from collections import Counter
from uuid import UUID

import pytest

from orchestrator.entries import OperatorActed
from orchestrator.state import State
from recovery.cli.failures import ExitCode
from tests.acceptance.asked_checkouts import ASKED
from tests.acceptance.errands import ERRAND
from tests.acceptance.typed import amends, answers
from tests.deployment import Deployment, payload
from tests.outside_world import World
from tests.worker_processes import until

AUTHORIZE = "authorize_payment"
WHY = ("--reason", "looked at the gateway", "--actor", "ada")


@pytest.fixture
def shop(deployment: Deployment) -> Deployment:
    deployment.definitions.append(ASKED)
    deployment.variables |= {"sweep_seconds": 0.5, "sagas": "tests.acceptance.asked_checkouts"}
    deployment.start_worker()
    return deployment


def stuck(shop: Deployment, key: str, fault: str) -> UUID:
    """An order of which nobody knows whether its money is held, since no lookup answers either."""
    shop.judge.script(fault, operation="authorize", order_reference=key, times=2)
    shop.judge.script("drop_before", operation="find", times=None)
    saga_id = shop.client.start(ASKED, payload(key), key=key).id
    assert rests(shop, saga_id) is State.STUCK
    shop.judge.clear_faults()
    return saga_id


def rests(deployment: Deployment, saga_id: UUID, seconds: float = 60.0) -> State:
    until(
        lambda: (
            deployment.client.get(saga_id).is_terminal or deployment.client.get(saga_id).is_parked
        ),
        seconds=seconds,
        what="the end of the saga",
    )
    return deployment.client.get(saga_id).state


def once_possible(deployment: Deployment, *arguments: str) -> None:
    """Type a command until it is not too early any more; each refusal must say when."""

    def type_it() -> bool:
        ran = amends(deployment, *arguments)
        if ran.returncode != 0:
            assert ran.returncode == ExitCode.CONFLICT, ran.stderr
            assert re.search(r"possible from \S+Z on", ran.stderr), ran.stderr
        return ran.returncode == 0

    until(type_it, seconds=60, what="the moment from which it is possible")


def test_the_gateway_is_asked_when_the_operator_wants_it(shop: Deployment) -> None:
    saga_id = stuck(shop, "o-1", "drop_after")
    [row] = answers(shop, "list", "--needs-attention")
    assert (row["why"], row["outstanding"]) == ("unknown", [AUTHORIZE])
    assert row["next"].startswith(f"amends probe {saga_id} --step {AUTHORIZE}")
    [seen] = answers(shop, "probe", "o-1", "--step", AUTHORIZE, *WHY, "--dry-run")
    assert seen["gateway"][0]["landed"] is True

    answers(shop, "probe", "o-1", "--step", AUTHORIZE, "--seen", str(seen["seq"]), *WHY)

    assert rests(shop, saga_id) is State.COMPLETED
    assert shop.violations({State.COMPLETED: 1}) == []


def test_what_the_operator_saw_done_is_gone_on_with(shop: Deployment) -> None:
    saga_id = stuck(shop, "o-2", "drop_after")
    [seen] = answers(shop, "resolve", "o-2", *WHY, "--dry-run")
    [held] = [each for each in seen["gateway"] if each["step"] == AUTHORIZE]
    reference = held["reference"]

    once_possible(shop, "mark-done", "o-2", "--step", AUTHORIZE, "--reference", reference, *WHY)

    assert rests(shop, saga_id) is State.COMPLETED
    totals = shop.judge.totals_of("o-2")
    assert totals is not None
    assert (totals.authorizations_count, totals.kept_minor) == (1, 1990)
    assert shop.violations({State.COMPLETED: 1}) == []


def test_what_the_operator_saw_missing_is_done_under_a_new_key(shop: Deployment) -> None:
    saga_id = stuck(shop, "o-3", "drop_before")

    once_possible(shop, "mark-not-done", "o-3", "--step", AUTHORIZE, *WHY)

    assert rests(shop, saga_id) is State.COMPLETED
    keys = {each.key for each in shop.judge.requests() if each.operation == "authorize"}
    assert len(keys) == 2
    assert shop.violations({State.COMPLETED: 1}) == []


def test_what_the_operator_saw_missing_may_be_taken_back_without_another_charge(
    shop: Deployment,
) -> None:
    saga_id = stuck(shop, "o-4", "drop_before")

    once_possible(shop, "mark-not-done", "o-4", "--step", AUTHORIZE, "--take-back", *WHY)

    assert rests(shop, saga_id) is State.COMPENSATED
    assert shop.judge.totals_of("o-4") is None
    assert shop.violations({State.COMPENSATED: 1}) == []


# -- after the pivot -------------------------------------------------------------------------------


@pytest.fixture
def errands(deployment: Deployment, world: World) -> Deployment:
    deployment.definitions.append(ERRAND)
    deployment.variables |= {"sagas": "tests.acceptance.errands"}
    world.says("decline", "mail")
    deployment.start_worker()
    return deployment


def stuck_errands(errands: Deployment, count: int) -> list[UUID]:
    ids = [errands.client.start(ERRAND, {"number": n}, key=f"errand-{n}").id for n in range(count)]
    for each in ids:
        assert rests(errands, each) is State.STUCK
    return ids


def test_what_is_stuck_behind_its_pivot_is_tried_again_and_completes(
    errands: Deployment, world: World
) -> None:
    [saga_id] = stuck_errands(errands, 1)
    world.relents()

    answers(errands, "retry", "errand-0", *WHY)

    assert rests(errands, saga_id) is State.COMPLETED
    assert world.violations(ERRAND) == []
    [acted] = [e.entry for e in errands.entries(saga_id) if isinstance(e.entry, OperatorActed)]
    assert (acted.verb, acted.actor, acted.reason) == ("retry", "ada", "looked at the gateway")


def test_many_are_retried_up_to_the_cap_and_the_rest_waits(
    errands: Deployment, world: World
) -> None:
    ids = stuck_errands(errands, 7)
    world.relents()
    many = ("retry", "--saga", "errand", "--because", "failed_after_pivot", "--limit", "5")

    asked = amends(errands, *many, *WHY)
    assert asked.returncode == ExitCode.USAGE
    assert "7 sagas to retry; the oldest 5 are taken" in asked.stderr
    assert errands.counts() == Counter({State.STUCK: 7})
    assert amends(errands, *many, "--yes", *WHY).returncode == 0

    until(lambda: errands.ended() == 5, seconds=60, what="the end of five")
    assert errands.counts() == Counter({State.COMPLETED: 5, State.STUCK: 2})
    assert amends(errands, *many, "--yes", *WHY).returncode == 0
    until(lambda: errands.ended() == len(ids), seconds=60, what="the end of all")
    assert world.violations(ERRAND) == []
