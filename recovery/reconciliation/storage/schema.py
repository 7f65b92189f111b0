"""Reconciliation's schema, for the same runner that migrates the engine's."""

from __future__ import annotations

from pathlib import Path

from orchestrator.storage.migrate import Schema
from recovery.reconciliation.storage.tables import SCHEMA, metadata

RECONCILIATION_SCHEMA = Schema(
    name=SCHEMA, metadata=metadata, migrations=Path(__file__).parent / "migrations"
)
"""Upgrade it after the engine's schema: ``migrate.upgrade(engine, RECONCILIATION_SCHEMA)``."""
