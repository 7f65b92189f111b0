"""A worker whose consumer goes deaf, for AMENDS_SAGAS: while a file named ``deaf`` is there.

``deaf`` in the directory in which the worker runs holds ``once`` (the connection of now fetches
nothing any more) or ``always``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from orchestrator.definition import SagaDefinition
from tests.sagas_for_workers import BROKERED
from workers import unreadable

DEAF = Path(os.environ.get("AMENDS_TEST_DEAF", "deaf"))
SAGA: SagaDefinition[Any] = BROKERED


class Deaf(unreadable._QoS):
    """Kombu's places, lost for good."""

    _is_deaf = False

    def can_consume(self) -> bool:
        how = DEAF.read_text() if DEAF.exists() else ""
        if how == "once":
            self._is_deaf = True
            DEAF.write_text("")
        return not self._is_deaf and how != "always" and super().can_consume()


unreadable._Channel.QoS = Deaf
