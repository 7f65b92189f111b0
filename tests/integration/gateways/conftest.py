"""One sandbox per module, its judge, its client, and an order of its own for each test."""

from collections.abc import Iterator
from itertools import count

import pytest

from steps.gateways.sandbox.client import SandboxGateway
from steps.gateways.sandbox.judge import SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from tests.integration.gateways.calls import connected

_serial = count(1)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess.start(tmp_path_factory.mktemp("sandbox") / "ledger.db") as process:
        yield process


@pytest.fixture(scope="module")
def judge(sandbox: SandboxProcess) -> Iterator[SandboxJudge]:
    with SandboxJudge(sandbox.base_url) as judge:
        yield judge


@pytest.fixture(scope="module")
def gateway(sandbox: SandboxProcess) -> Iterator[SandboxGateway]:
    with connected(sandbox.base_url) as gateway:
        yield gateway


@pytest.fixture
def order() -> str:
    return f"order-{next(_serial)}."
