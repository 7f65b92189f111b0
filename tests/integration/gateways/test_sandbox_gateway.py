"""The sandbox as a judge: durable, honest about what it saw, and one effect per key."""

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from steps.gateways.errors import (
    GatewayServerError,
    GatewayTimeoutError,
    GatewayUnavailableError,
    KeyInUseError,
    PaymentStateError,
)
from steps.gateways.payment import CaptureRequest, ChargeStatus
from steps.gateways.sandbox.client import SandboxGateway
from steps.gateways.sandbox.judge import SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from tests.integration.gateways.calls import (
    LONG,
    PRICE,
    SHORT,
    authorize,
    connected,
    is_open,
    until,
)

HOUR = 3600

# Durable.


def test_the_ledger_survives_kill_9_and_keys_still_replay(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"
    with SandboxProcess.start(ledger) as first, connected(first.base_url) as gateway:
        payments = [authorize(gateway, f"order-{number}") for number in range(20)]
        first.kill()

    with (
        SandboxProcess.start(ledger, port=first.port) as second,
        SandboxJudge(second.base_url) as judge,
        connected(second.base_url) as gateway,
    ):
        assert [row.reference for row in judge.movements()] == [p.reference for p in payments]
        assert [authorize(gateway, f"order-{number}") for number in range(20)] == payments
        assert judge.last_seq() == 20
        assert {row.attempt for row in judge.requests(since=20)} == {2}


def test_kill_9_in_the_middle_of_load_loses_no_answered_effect(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"
    answered: list[str] = []

    def load(worker: int) -> None:
        with connected(victim.base_url) as gateway:
            for number in range(10_000):
                try:
                    payment = authorize(gateway, f"order-{worker}-{number}", timeout_seconds=2)
                except Exception:  # noqa: BLE001 - any failure: the gateway is being killed
                    return
                answered.append(payment.reference)

    with SandboxProcess.start(ledger) as victim, ThreadPoolExecutor(4) as workers:
        running = [workers.submit(load, worker) for worker in range(4)]
        until(lambda: len(answered) > 200)
        victim.kill()
        for each in running:
            each.result()

    with SandboxProcess.start(ledger) as again, SandboxJudge(again.base_url) as judge:
        assert set(answered) <= {row.reference for row in judge.movements() if row.effective}


def test_movements_can_neither_be_changed_nor_removed(
    sandbox: SandboxProcess, gateway: SandboxGateway, order: str
) -> None:
    authorize(gateway, order)

    with sqlite3.connect(sandbox.ledger) as db:
        for statement in ("UPDATE movement SET amount_minor = 0", "DELETE FROM movement"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                db.execute(statement)
    db.close()


def test_a_ledger_that_cannot_be_written_is_no_answer_and_no_effect(
    sandbox: SandboxProcess, gateway: SandboxGateway, judge: SandboxJudge, order: str
) -> None:
    db = sqlite3.connect(sandbox.ledger, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    with pytest.raises(GatewayServerError):
        authorize(gateway, order)
    db.execute("ROLLBACK")
    db.close()

    assert judge.open_requests() == []
    assert judge.totals_of(order) is None
    assert authorize(gateway, order).status is ChargeStatus.AUTHORIZED
    attempts = [row.attempt for row in judge.requests() if row.order_reference == order]
    assert attempts == [1, 2]


# One effect per key.


def test_concurrent_requests_with_one_key_have_one_effect(
    gateway: SandboxGateway, judge: SandboxJudge, order: str
) -> None:
    def attempt(_: int) -> str | None:
        try:
            return authorize(gateway, order).reference
        except KeyInUseError:
            return None

    with ThreadPoolExecutor(16) as callers:
        answers = set(callers.map(attempt, range(48)))

    assert len(answers - {None}) == 1
    assert len(judge.effects(order)) == 1


def test_a_key_in_flight_is_refused_until_its_first_answer(
    gateway: SandboxGateway, judge: SandboxJudge, order: str
) -> None:
    judge.script("hold_before", order_reference=order)
    with ThreadPoolExecutor(1) as callers:
        first = callers.submit(authorize, gateway, order)
        until(lambda: is_open(judge, order))
        for _ in range(3):
            with pytest.raises(KeyInUseError):
                authorize(gateway, order)
        judge.release(order)

        assert authorize(gateway, order) == first.result()
    assert len(judge.effects(order)) == 1


@pytest.mark.parametrize("fault", ["drop_before", "drop_after"])
def test_a_dropped_connection_breaks_at_once(
    gateway: SandboxGateway, judge: SandboxJudge, order: str, fault: str
) -> None:
    judge.script(fault, order_reference=order)

    with pytest.raises(GatewayTimeoutError) as lost:
        authorize(gateway, order)

    assert lost.value.details["reason"] != "ReadTimeout"
    assert bool(judge.effects(order)) is (fault == "drop_after")


def test_a_forgotten_key_charges_twice_and_the_judge_sees_it(
    gateway: SandboxGateway, judge: SandboxJudge, order: str
) -> None:
    authorize(gateway, order)
    judge.script("forget_key", order_reference=order)

    authorize(gateway, order)

    assert [row.key for row in judge.effects(order)] == [f"{order}:authorize"] * 2
    assert len(gateway.find(key=f"{order}:authorize", timeout_seconds=LONG)) == 2


def test_keys_and_holds_end_with_their_lifetimes(tmp_path: Path) -> None:
    with (
        SandboxProcess.start(tmp_path / "ledger.db") as sandbox,
        SandboxJudge(sandbox.base_url) as judge,
        connected(sandbox.base_url) as gateway,
    ):
        first = authorize(gateway, "order")
        judge.advance_clock(23 * HOUR)
        assert authorize(gateway, "order") == first

        judge.advance_clock(HOUR)
        assert authorize(gateway, "order") != first

        judge.advance_clock(6 * 24 * HOUR)
        request = CaptureRequest(reference=first.reference, amount=PRICE)
        with pytest.raises(PaymentStateError) as refused:
            gateway.capture(request, key="capture", timeout_seconds=LONG)
        assert refused.value.code == "authorization_expired"
        released = gateway.void(first.reference, key="void", timeout_seconds=LONG)
        assert released.status is ChargeStatus.EXPIRED


# Open requests.


def test_held_requests_stay_open_until_released(
    gateway: SandboxGateway, judge: SandboxJudge, order: str
) -> None:
    orders = [f"{order}-{number}" for number in range(5)]
    for each in orders:
        judge.script("hold_before", order_reference=each)

    with ThreadPoolExecutor(5) as callers:
        calls = [callers.submit(authorize, gateway, each) for each in orders]
        held = until(lambda: rows if len(rows := judge.open_requests()) == 5 else None)
        assert {row.order_reference for row in held} == set(orders)
        assert not any(judge.totals_of(each) for each in orders)

        assert [judge.release(each) for each in orders] == [1] * 5
        assert {call.result().status for call in calls} == {ChargeStatus.AUTHORIZED}

    assert judge.open_requests() == []


def test_a_held_request_takes_effect_after_its_caller_was_killed(
    sandbox: SandboxProcess, judge: SandboxJudge, order: str
) -> None:
    judge.script("hold_before", order_reference=order)
    script = (
        "import sys; from tests.integration.gateways.calls import *\n"
        "authorize(SandboxGateway(sys.argv[1], timeout=timedelta(seconds=30)), sys.argv[2])"
    )
    caller = subprocess.Popen([sys.executable, "-c", script, sandbox.base_url, order])
    until(lambda: is_open(judge, order))
    caller.kill()
    caller.wait()

    assert judge.totals_of(order) is None
    assert judge.release(order) == 1

    assert until(lambda: judge.totals_of(order)).open_holds_count == 1


def test_an_effect_whose_answer_is_held_is_done_and_replays(
    gateway: SandboxGateway, judge: SandboxJudge, order: str
) -> None:
    judge.script("hold_after", order_reference=order)
    with pytest.raises(GatewayTimeoutError):
        authorize(gateway, order, timeout_seconds=SHORT)

    assert authorize(gateway, order).status is ChargeStatus.AUTHORIZED

    judge.release(order)
    assert len(judge.effects(order)) == 1


# What the judge can tell.


def test_every_request_is_on_record_with_its_attempt(
    gateway: SandboxGateway, judge: SandboxJudge, order: str
) -> None:
    judge.script("drop_after", order_reference=order)
    judge.script("error_before", order_reference=order, nth=2, vouches=True)
    with pytest.raises(GatewayTimeoutError):
        authorize(gateway, order)
    with pytest.raises(GatewayUnavailableError):
        authorize(gateway, order)
    authorize(gateway, order)

    rows = [row for row in judge.requests() if row.order_reference == order]
    assert [(row.attempt, row.status, row.replayed, row.faults) for row in rows] == [
        (1, None, False, ("drop_after",)),
        (2, 503, False, ("error_before",)),
        (3, 201, True, ()),
    ]
    assert len({row.fingerprint for row in rows}) == 1
    assert all(row.answered_at and row.received_at <= row.answered_at for row in rows)
    applied = [
        f["applied"] for f in judge.faults() if f["rule"]["match"]["order_reference"] == order
    ]
    assert applied == [1, 1]


def test_a_request_held_when_the_gateway_dies_is_on_record_as_unanswered(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"
    with (
        SandboxProcess.start(ledger) as first,
        SandboxJudge(first.base_url) as judge,
        connected(first.base_url) as gateway,
    ):
        judge.script("hold_before", order_reference="order")
        with pytest.raises(GatewayTimeoutError):
            authorize(gateway, "order", timeout_seconds=SHORT)
        first.kill()

    with SandboxProcess.start(ledger) as second, SandboxJudge(second.base_url) as judge:
        (row,) = judge.requests()
        assert (row.answered_at, row.status, row.is_open) == (None, None, False)
        assert list(judge.movements()) == []


def test_the_ledger_is_read_by_pages(
    sandbox: SandboxProcess, gateway: SandboxGateway, order: str
) -> None:
    for number in range(12):
        authorize(gateway, f"{order}-{number:02}")

    for path, name, key in (
        ("ledger", "movements", "seq"),
        ("requests", "requests", "id"),
        ("totals", "totals", "order_reference"),
    ):
        rows: list[dict[str, Any]] = []
        after: object = ""
        while after is not None:
            url = f"{sandbox.base_url}/sandbox/{path}?limit=5&after={after}"
            page = httpx2.get(url, trust_env=False).json()
            assert len(page[name]) <= 5
            rows += page[name]
            after = page["next"]
        names = [row[key] for row in rows]
        assert len(names) >= 12
        assert names == sorted(set(names))
