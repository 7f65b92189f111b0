"""In whose name a command acts when nobody is named."""

from __future__ import annotations

import getpass


def this_person() -> str:
    """Return ``cli:`` and the user of this machine, or only ``cli`` where there is none."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user without a name
        return "cli"
