"""One sandbox per module; a database, and an order, of its own for each test."""

from collections.abc import Iterator
from itertools import count

import pytest

from steps.gateways.sandbox.judge import SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from tests.integration.gateways.receiver import Receiver, listening
from tests.integration.webhooks.world import World, world

_serial = count(1)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess.start(tmp_path_factory.mktemp("sandbox") / "ledger.db") as process:
        yield process


@pytest.fixture(scope="module")
def judge(sandbox: SandboxProcess) -> Iterator[SandboxJudge]:
    with SandboxJudge(sandbox.base_url) as judge:
        yield judge


@pytest.fixture
def post() -> Iterator[Receiver]:
    with listening() as receiver:
        yield receiver


@pytest.fixture
def shop(
    database: str, sandbox: SandboxProcess, judge: SandboxJudge, post: Receiver
) -> Iterator[World]:
    with world(database, sandbox, judge, post) as made:
        yield made


@pytest.fixture
def order() -> str:
    return f"order-{next(_serial)}."
