"""The engine's migrations, run by `orchestrator.storage.migrate`."""
