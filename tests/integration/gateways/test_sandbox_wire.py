"""The sandbox's own wire form: what it refuses, and the file of a day."""

import csv
from datetime import UTC, timedelta
from pathlib import Path

import httpx2
import pytest

from steps.gateways.errors import InvalidRequestError
from steps.gateways.payment import ChargeRequest
from steps.gateways.sandbox.client import SandboxGateway
from steps.gateways.sandbox.judge import SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from steps.money import Money
from tests.integration.gateways.calls import LONG, authorize, connected

DAY = 24 * 3600


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ({}, {}, "key_required"),
        ({"Idempotency-Key": "k" * 256}, {}, "key_too_long"),
        ({"Idempotency-Key": "raw"}, {"amount_minor": 12.0}, "malformed_request"),
        ({"Idempotency-Key": "raw"}, {"amount_minor": True}, "malformed_request"),
        ({"Idempotency-Key": "raw"}, {"amount_minor": "12"}, "malformed_request"),
        ({"Idempotency-Key": "raw"}, {"amount_minor": 2**63}, "malformed_request"),
        ({"Idempotency-Key": "raw"}, {"surprise": 1}, "malformed_request"),
        ({"Idempotency-Key": "raw"}, {"currency": "EURO"}, "invalid_currency"),
    ],
)
def test_a_request_in_the_wrong_shape_is_refused(
    sandbox: SandboxProcess, headers: dict[str, str], body: dict[str, object], code: str
) -> None:
    good = {"amount_minor": 1, "currency": "EUR", "token": "tok_ok", "order_reference": "raw"}

    answer = httpx2.post(
        f"{sandbox.base_url}/payments", json={**good, **body}, headers=headers, trust_env=False
    )

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code


def test_the_file_of_a_day_is_there_when_the_day_is_over(tmp_path: Path) -> None:
    with (
        SandboxProcess.start(tmp_path / "ledger.db") as sandbox,
        SandboxJudge(sandbox.base_url) as judge,
        connected(sandbox.base_url) as gateway,
    ):
        payments = [authorize(gateway, f"order-{number}") for number in range(3)]
        today = payments[0].created_at.astimezone(UTC).date()
        with pytest.raises(RuntimeError, match="report_not_ready"):
            judge.settlement_file(today)

        judge.advance_clock(DAY)

        rows = list(csv.DictReader(judge.settlement_file(today).splitlines()))
        assert [row["reference"] for row in rows] == [each.reference for each in payments]
        assert {(row["operation"], row["amount_minor"]) for row in rows} == {("authorize", "1234")}
        nothing = judge.settlement_file(today - timedelta(days=3))
        assert nothing.startswith("seq,at,operation,")
        assert len(nothing.splitlines()) == 1


def test_an_invalid_amount_is_kept_for_the_key(gateway: SandboxGateway, order: str) -> None:
    request = ChargeRequest(
        amount=Money(minor=0, currency="EUR"), token="tok_ok", order_reference=order
    )

    with pytest.raises(InvalidRequestError) as refused:
        gateway.authorize(request, key=f"{order}:authorize", timeout_seconds=LONG)

    assert refused.value.decisive
