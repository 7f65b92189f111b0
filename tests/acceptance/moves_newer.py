"""The second version alone: the bill is mailed, and moves of the first version may be, too."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.definition import Migration
from tests.acceptance import moves
from tests.outside_world import doing

NEWER = replace(
    moves.MOVE,
    version=2,
    steps=[
        doing("box"),
        doing("drive", pivot=True),
        doing("mail", retriable=True),
        doing("thank", retriable=True),
    ],
    migrates={
        1: Migration(
            renamed={"pack": "box", "post": "mail"}, payload=lambda old: {**old, "number": 77}
        )
    },
)
