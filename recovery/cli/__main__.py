"""``python -m recovery.cli`` is ``amends`` where no script is installed."""

from __future__ import annotations

from recovery.cli import main

main()
