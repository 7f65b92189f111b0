"""What every carrier adapter must do, held against each over a real process."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count

import pytest

from steps.gateways.carrier import Carrier, ShipmentRequest
from steps.gateways.errors import (
    GatewayTimeoutError,
    KeyConflictError,
    LookupFailedError,
    ShipmentRefusedError,
)
from steps.gateways.sandbox.client import SandboxCarrier
from steps.gateways.sandbox.judge import SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess

LONG = 10.0

ADAPTERS: dict[str, Callable[[str], Carrier]] = {
    "sandbox": lambda base_url: SandboxCarrier(base_url, timeout=timedelta(seconds=30)),
}

_serial = count(1)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess.start(tmp_path_factory.mktemp("carrier") / "ledger.db") as process:
        yield process


@pytest.fixture(scope="module")
def judge(sandbox: SandboxProcess) -> Iterator[SandboxJudge]:
    with SandboxJudge(sandbox.base_url) as judge:
        yield judge


@pytest.fixture(params=sorted(ADAPTERS))
def carrier(request: pytest.FixtureRequest, sandbox: SandboxProcess) -> Iterator[Carrier]:
    adapter = ADAPTERS[request.param](sandbox.base_url)
    yield adapter
    adapter.close()  # type: ignore[attr-defined]


@pytest.fixture
def parcel() -> ShipmentRequest:
    return ShipmentRequest(order_reference=f"parcel-{next(_serial)}", destination="Main St 1")


def key_of(parcel: ShipmentRequest) -> str:
    return f"{parcel.order_reference}:ship"


def test_a_key_ships_one_parcel(
    carrier: Carrier, parcel: ShipmentRequest, judge: SandboxJudge
) -> None:
    first = carrier.create_shipment(parcel, key=key_of(parcel), timeout_seconds=LONG)
    again = carrier.create_shipment(parcel, key=key_of(parcel), timeout_seconds=LONG)

    assert again == first
    totals = judge.totals_of(parcel.order_reference)
    assert totals is not None
    assert totals.shipments_count == 1


def test_a_key_with_another_parcel_is_a_conflict(carrier: Carrier, parcel: ShipmentRequest) -> None:
    carrier.create_shipment(parcel, key=key_of(parcel), timeout_seconds=LONG)
    other = ShipmentRequest(order_reference="parcel-other")

    with pytest.raises(KeyConflictError):
        carrier.create_shipment(other, key=key_of(parcel), timeout_seconds=LONG)


def test_a_refusal_is_final_and_decisive(
    carrier: Carrier, parcel: ShipmentRequest, judge: SandboxJudge
) -> None:
    judge.script("refuse", order_reference=parcel.order_reference)

    for _ in range(2):
        with pytest.raises(ShipmentRefusedError) as refused:
            carrier.create_shipment(parcel, key=key_of(parcel), timeout_seconds=LONG)
        assert refused.value.decisive

    assert carrier.find(key=key_of(parcel), timeout_seconds=LONG) == ()


def test_a_lost_answer_is_unknown_and_the_shipment_is_found(
    carrier: Carrier, parcel: ShipmentRequest, judge: SandboxJudge
) -> None:
    judge.script("drop_after", order_reference=parcel.order_reference)

    with pytest.raises(GatewayTimeoutError):
        carrier.create_shipment(parcel, key=key_of(parcel), timeout_seconds=LONG)

    (found,) = carrier.find(key=key_of(parcel), timeout_seconds=LONG)
    assert found.order_reference == parcel.order_reference
    assert carrier.find(reference=found.reference, timeout_seconds=LONG) == (found,)
    assert carrier.find(order_reference=parcel.order_reference, timeout_seconds=LONG) == (found,)


def test_a_failed_question_is_retriable(
    carrier: Carrier, parcel: ShipmentRequest, judge: SandboxJudge
) -> None:
    judge.script("error_after", order_reference=parcel.order_reference, operation="find")

    with pytest.raises(LookupFailedError):
        carrier.find(order_reference=parcel.order_reference, timeout_seconds=LONG)
