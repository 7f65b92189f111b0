"""A participant with a database of its own, and workers that are killed or stopped at it."""

from __future__ import annotations

import signal
from uuid import UUID

import psutil
import pytest

from orchestrator.entries import LateOutcomeRecorded
from orchestrator.state import State
from tests.acceptance.transfers import AMOUNT, Transfer, transfer
from tests.bank import Bank, book
from tests.deployment import Deployment, Member
from tests.worker_processes import until

CONTINUES = 60.0
"""Seconds; a stopped worker may have taken the first ring of the next attempt with it."""


@pytest.fixture(autouse=True)
def _bank_of_the_workers(
    deployment: Deployment, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANK_URL", bank.url)
    deployment.variables |= {"lease_seconds": 1, "sweep_seconds": 0.5}
    deployment.variables["sagas"] = "tests.acceptance.transfers"
    deployment.definitions.append(transfer)
    deployment.start_workers(2)


def pay_in(bank: Bank) -> None:
    with bank.transaction() as connection:
        book(connection, AMOUNT)


def stopped(deployment: Deployment) -> list[Member]:
    statuses = {each: psutil.Process(each.pid).status() for each in deployment.members}
    return [each for each, status in statuses.items() if status == psutil.STATUS_STOPPED]


def repeated_after_a_kill(deployment: Deployment, bank: Bank, *, has_barrier: bool) -> None:
    """The first worker dies between its commit and the record; the other one does it again."""
    pay_in(bank)
    pay_in(bank)
    payload = Transfer(dies_after=True, has_barrier=has_barrier)
    saga = deployment.client.start(transfer, payload, key="T-1")

    ended = deployment.client.wait(saga.id, timeout=CONTINUES)

    assert ended.state is State.COMPLETED
    assert sum(each.is_alive for each in deployment.members) == 1


def test_a_step_repeated_after_its_worker_was_killed_has_one_effect(
    deployment: Deployment, bank: Bank
) -> None:
    repeated_after_a_kill(deployment, bank, has_barrier=True)

    assert bank.entries == [AMOUNT, AMOUNT, -AMOUNT]
    assert deployment.violations({State.COMPLETED: 1}) == []


def test_without_the_barrier_it_has_two(deployment: Deployment, bank: Bank) -> None:
    repeated_after_a_kill(deployment, bank, has_barrier=False)

    assert bank.entries == [AMOUNT, AMOUNT, -AMOUNT, -AMOUNT]


def overtaken(deployment: Deployment, bank: Bank, *, has_barrier: bool) -> tuple[Member, UUID]:
    """The first worker stands still before its transaction; meanwhile the saga is taken back.

    There is no cover at first. Then there is, and the first worker goes on.
    """
    payload = Transfer(stops_before=True, dies_after=True, has_barrier=has_barrier)
    saga = deployment.client.start(transfer, payload, key="T-1")
    [late] = until(lambda: stopped(deployment), what="a stopped worker")

    ended = deployment.client.wait(saga.id, timeout=CONTINUES)

    assert ended.state is State.COMPENSATED
    pay_in(bank)
    late.signal(signal.SIGCONT)
    return late, saga.id


def test_an_action_overtaken_by_its_compensation_is_refused(
    deployment: Deployment, bank: Bank
) -> None:
    late, saga = overtaken(deployment, bank, has_barrier=True)

    found = until(lambda: outcomes_too_late(deployment, saga), what="the refusal")

    assert [(each.outcome, (each.error or {}).get("code")) for each in found] == [
        ("failed", "closed")
    ]
    assert late.is_alive
    assert bank.entries == [AMOUNT]
    assert deployment.violations({State.COMPENSATED: 1}) == []


def test_without_the_barrier_the_money_of_a_compensated_saga_is_gone(
    deployment: Deployment, bank: Bank
) -> None:
    late, saga = overtaken(deployment, bank, has_barrier=False)

    until(lambda: not late.is_alive, what="the end of the late worker, after its commit")

    assert deployment.client.get(saga).state is State.COMPENSATED
    assert bank.entries == [AMOUNT, -AMOUNT]


def outcomes_too_late(deployment: Deployment, saga: UUID) -> list[LateOutcomeRecorded]:
    entries = [each.entry for each in deployment.entries(saga)]
    return [each for each in entries if isinstance(each, LateOutcomeRecorded)]
