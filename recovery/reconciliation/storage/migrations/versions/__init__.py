"""Reconciliation's migrations; `orchestrator.storage.migrate` runs them for their `Schema`."""
