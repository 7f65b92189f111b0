"""Yesterday of a real deployment: workers, gateway, and differences that were planted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.keys import forward_key
from orchestrator.state import State
from orchestrator.storage.alerts import Alert, Alerts
from orchestrator.storage.database import Database
from recovery.cli.failures import ExitCode
from recovery.cli.program import amends
from recovery.reconciliation.report_file import COLUMNS
from steps.checkout import checkout
from steps.gateways.payment import CaptureRequest, ChargeRequest
from steps.gateways.sandbox.client import SandboxGateway
from steps.money import Money
from tests.deployment import Deployment, expected, mixed, payload
from tests.servers import INSTALLATION
from tests.worker_processes import until
from tests.yesterday import NOON, YESTERDAY, change, move_ledger, move_sagas

PRICE = Money(minor=1990, currency="EUR")
Run = Callable[..., Result]


@pytest.fixture
def run(deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    for name in ("database_url", "broker_url", "gateway_url"):
        monkeypatch.setenv(f"AMENDS_{name.upper()}", str(deployment.variables[name]))
    return lambda *arguments: CliRunner().invoke(amends, arguments, prog_name="amends")


@pytest.fixture
def gateway(deployment: Deployment) -> Iterator[SandboxGateway]:
    opened = SandboxGateway(deployment.variables["gateway_url"], timeout=timedelta(seconds=5))
    yield opened
    opened.close()


def reconcile(run: Run, *arguments: str, exit_code: int) -> dict[str, Any]:
    answer = run("reconcile", "--json", *arguments)
    assert answer.exit_code == exit_code, answer.output
    done: dict[str, Any] = json.loads(answer.stdout)
    return done


def discrepancies(run: Run, *arguments: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    """By type, kind and order."""
    rows = map(json.loads, run("discrepancies", "--json", *arguments).stdout.splitlines())
    return {(each["type"], each["kind"], each["order_reference"]): each for each in rows}


def alerts(deployment: Deployment) -> list[Alert]:
    found = Alerts(Database(deployment.engine)).find(closed_too=True, limit=100)
    return [each for each in found if each.kind == "discrepancy"]


def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def start(deployment: Deployment, key: str, **changes: Any) -> Any:
    return deployment.client.start(checkout, payload(key, **changes), key=key).id


def test_a_day_of_every_sort_of_order_has_no_discrepancy(
    deployment: Deployment, run: Run, tmp_path: Path
) -> None:
    """Completed, free, declined, blocked, refunded, and one whose answer was lost."""
    deployment.judge.script("refuse", operation="ship", order_reference="refunded", times=None)
    deployment.judge.script("drop_after", operation="authorize", order_reference="order-3")
    deployment.start_worker()
    orders = mixed(25)
    deployment.start_orders(orders)
    refunded = start(deployment, "refunded")
    deployment.wait_at_rest(90)
    assert deployment.counts() == expected(orders) + Counter({State.COMPENSATED: 1})
    assert deployment.client.get(refunded).state is State.COMPENSATED
    move_sagas(deployment.engine)
    move_ledger(ledger(tmp_path))

    done = reconcile(run, exit_code=0)

    assert done["day"] == str(YESTERDAY)
    moved = sum(
        each.effective and each.operation != "ship" for each in deployment.judge.movements()
    )
    assert done["matched"] == moved > 30
    assert done["open"] == done["unjudged"] == 0
    assert discrepancies(run, "--all") == {}
    report = tmp_path / "report.csv"
    report.write_text(deployment.judge.settlement_file(YESTERDAY))
    assert reconcile(run, "--report", str(report), exit_code=0) == {**done, "run": 2}


def test_three_planted_differences_are_found_and_acted_upon_once(
    deployment: Deployment, run: Run, gateway: SandboxGateway, tmp_path: Path
) -> None:
    worker = deployment.start_worker()
    for key in ("fine", "lost", "odd"):
        start(deployment, key)
    late = start(deployment, "late", payment_method="tok_declined")
    deployment.wait_at_rest(60)
    strange = gateway.authorize(
        ChargeRequest(amount=PRICE, token="tok_ok", order_reference="nobody"),
        key="somebody-elses",
        timeout_seconds=5,
    )
    gateway.capture(
        CaptureRequest(reference=strange.reference, amount=PRICE), key="theirs", timeout_seconds=5
    )
    gateway.authorize(
        ChargeRequest(amount=PRICE, token="tok_ok", order_reference="fine"),
        key="under-our-orders-name",
        timeout_seconds=5,
    )
    deployment.judge.script("forget_key", operation="authorize", order_reference="late")
    gateway.authorize(
        ChargeRequest(amount=PRICE, token="tok_ok", order_reference="late"),
        key=forward_key("checkout", "late", "authorize_payment", installation=INSTALLATION),
        timeout_seconds=5,
    )
    move_sagas(deployment.engine)
    move_ledger(ledger(tmp_path))
    change(
        ledger(tmp_path),
        "UPDATE movement SET effective = 0 WHERE order_reference = 'lost' "
        "AND operation = 'capture'",
    )
    change(
        ledger(tmp_path),
        "UPDATE movement SET amount_minor = 1989 WHERE order_reference = 'odd' "
        "AND operation = 'capture'",
    )

    done = reconcile(run, exit_code=ExitCode.DISCREPANCIES)

    found = discrepancies(run)
    assert set(found) == {
        ("missing_internal", "authorize", "nobody"),
        ("missing_internal", "capture", "nobody"),
        ("missing_internal", "authorize", "fine"),
        ("missing_internal", "authorize", "late"),
        ("missing_gateway", "capture", "lost"),
        ("amount_mismatch", "capture", "odd"),
    }
    assert done["open"] == 6
    assert done["failed_actions"] == 0
    assert {each["state"] for each in found.values()} == {"acted"}
    lost = found["missing_gateway", "capture", "lost"]
    [page] = [each for each in alerts(deployment) if each.about.endswith(lost["id"])]
    assert str(page.saga_id) == lost["saga_id"]
    assert page.data["key"] == "lost"
    odd = found["amount_mismatch", "capture", "odd"]
    assert (odd["ours"], odd["theirs"]) == ("1990 EUR moved", "1989 EUR moved")
    under_the_name = found["missing_internal", "authorize", "fine"]
    assert odd["action"] == under_the_name["action"] == "told a person"

    # The late charge was made under the saga's own key: it is told, and takes the money back.
    told = found["missing_internal", "authorize", "late"]
    assert told["saga_id"] == str(late)
    assert told["action"] == "reported the effect of authorize_payment to the saga"
    until(lambda: _is_clean(deployment, "late"), seconds=60, what="the void")
    until(lambda: deployment.client.get(late).state is State.COMPENSATED, what="the end")
    assert worker.events("step.effect_reported") or "EffectReported" in {
        type(each.entry).__name__ for each in deployment.entries(late)
    }

    # Again: the same rows but for what is right now, and nobody is told twice.
    paged = len(alerts(deployment))
    reconcile(run, exit_code=ExitCode.DISCREPANCIES)
    again = discrepancies(run)
    assert {key: each["id"] for key, each in again.items()} == {
        key: each["id"] for key, each in found.items() if key[2] != "late"
    }
    assert paged == len(alerts(deployment)) == 5
    [gone] = [each for each in discrepancies(run, "--all").values() if each["state"] == "gone"]
    assert gone["id"] == told["id"]

    # A person closes what is left; then the day is settled, and stays so.
    for each in again.values():
        closed = run("close-discrepancy", each["id"], "--as", "resolved", "--reason", "by hand")
        assert closed.exit_code == 0, closed.output
    assert not [each for each in alerts(deployment) if each.closed_at is None]
    assert reconcile(run, exit_code=0)["open"] == 0
    assert len(alerts(deployment)) == 5


def test_a_key_of_one_order_beside_the_payment_of_another_is_for_a_person(
    deployment: Deployment, run: Run, tmp_path: Path
) -> None:
    """A report that mixes up whose payment is whose must not take either order back."""
    deployment.start_worker()
    for order in ("one", "other"):
        start(deployment, order)
    deployment.wait_at_rest(60)
    move_sagas(deployment.engine)
    move_ledger(ledger(tmp_path))
    theirs = deployment.judge.totals_of("other")
    [paid] = [
        each.payment_reference
        for each in deployment.judge.movements()
        if (each.order_reference, each.operation) == ("other", "capture")
    ]
    key = forward_key("checkout", "one", "capture_payment", installation=INSTALLATION)
    report = tmp_path / "report.csv"
    report.write_text(
        f"{','.join(COLUMNS)}\n{NOON.isoformat()},capture,pay_x,{paid},one,1990,EUR,{key}\n"
    )

    reconcile(run, "--report", str(report), exit_code=ExitCode.DISCREPANCIES)

    assert discrepancies(run)["missing_internal", "capture", "one"]["action"] == "told a person"
    deployment.wait_at_rest(60)
    assert deployment.counts() == Counter({State.COMPLETED: 2})
    assert deployment.judge.totals_of("other") == theirs


def _is_clean(deployment: Deployment, order: str) -> bool:
    totals = deployment.judge.totals_of(order)
    return totals is not None and totals.is_clean
