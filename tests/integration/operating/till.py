"""A saga that the command line finds by AMENDS_SAGAS; what its other side answers is a test's."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.definition import Migration
from tests.histories import doing, saga
from tests.integration.operating.world import AT_ONCE, ONCE, World

WORLD = World()

TILL = saga(
    doing(
        "pay",
        run=WORLD.on_pay,
        compensation=WORLD.on_refund,
        probe=WORLD.on_probe,
        lookup=WORLD.on_lookup,
        retry=ONCE,
        undo_retry=ONCE,
        probe_retry=ONCE,
        timeout=AT_ONCE,
    ),
    doing("ship", pivot=True),
    name="till",
    attributes=["amount"],
)

NEWER = replace(TILL, version=2, migrates={1: Migration()})
