"""One real server per kind of gateway and module, and the adapter that a test is run for."""

from collections.abc import Iterator

import pytest

from steps.gateways.payment import PaymentGateway
from steps.gateways.sandbox.judge import SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from tests.contract.gateways import ADAPTERS, Adapter, Order, serial
from tests.contract.localstripe import CANNOT_HOLD, NobodyJudges, localstripe
from tests.idempotency_stores import charges, store  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess.start(tmp_path_factory.mktemp("gateway") / "ledger.db") as process:
        yield process


@pytest.fixture(scope="module")
def localstripe_url() -> Iterator[str]:
    with localstripe() as base_url:
        yield base_url


@pytest.fixture(params=sorted(ADAPTERS))
def adapter_name(request: pytest.FixtureRequest) -> str:
    """Every test of an adapter runs for each; what the witness cannot hold must fail there."""
    name: str = request.param
    reason = CANNOT_HOLD.get(request.node.name) or CANNOT_HOLD.get(request.node.originalname)
    if name == "localstripe" and reason is not None:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    return name


@pytest.fixture
def adapter(adapter_name: str) -> Adapter:
    return ADAPTERS[adapter_name]


@pytest.fixture
def base_url(adapter_name: str, request: pytest.FixtureRequest) -> str:
    if adapter_name == "localstripe":
        url: str = request.getfixturevalue("localstripe_url")
        return url
    process: SandboxProcess = request.getfixturevalue("sandbox")
    return process.base_url


@pytest.fixture
def judge(adapter_name: str, base_url: str) -> Iterator[SandboxJudge | NobodyJudges]:
    if adapter_name == "localstripe":
        yield NobodyJudges()
        return
    with SandboxJudge(base_url) as judge:
        yield judge


@pytest.fixture
def gateway(adapter: Adapter, base_url: str) -> Iterator[PaymentGateway]:
    gateway = adapter.connect(base_url)
    yield gateway
    gateway.close()  # type: ignore[attr-defined]


@pytest.fixture
def order(adapter: Adapter, gateway: PaymentGateway) -> Order:
    return Order(gateway=gateway, tokens=adapter.tokens, reference=f"order-{next(serial)}")
