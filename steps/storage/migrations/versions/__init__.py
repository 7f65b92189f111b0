"""The shop's migrations, run by `orchestrator.storage.migrate` with `SHOP_SCHEMA`."""
