"""Fixtures every test may use: real servers, and databases with every schema migrated."""

from __future__ import annotations

import signal

import pytest

from orchestrator.storage import migrate
from orchestrator.storage.database import create_engine
from recovery.reconciliation.storage.schema import RECONCILIATION_SCHEMA
from steps.storage.schema import SHOP_SCHEMA
from tests.servers import (  # noqa: F401 - fixtures
    Migrate,
    broker_url,
    database,
    databases,
    servers,
)


def pytest_configure() -> None:
    """Let the processes of tests hear every signal.

    A signal that ``nohup`` or a shell's ``&`` has ignored is ignored by all descendants; one that
    is heard and does nothing is not.
    """
    for number in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.fixture(scope="session")
def migrate_database() -> Migrate:
    """Fill the template with the engine's schema, the shop's and that of reconciliation."""

    def fill(url: str) -> None:
        engine = create_engine(url)
        migrate.upgrade(engine)
        migrate.upgrade(engine, SHOP_SCHEMA)
        migrate.upgrade(engine, RECONCILIATION_SCHEMA)
        engine.dispose()

    return fill
