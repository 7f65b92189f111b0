"""Fixtures every test may use: real servers, and databases with every schema migrated."""

from __future__ import annotations

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
