"""Both versions of the move, as a build has them while the older one's sagas are in flight."""

from __future__ import annotations

from tests.acceptance.moves import MOVE
from tests.acceptance.moves_newer import NEWER

__all__ = ["MOVE", "NEWER"]
