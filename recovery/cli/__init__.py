"""The command line: ``amends``."""

from __future__ import annotations

import sys

from recovery.isolation import ROOT, strangers


def main() -> None:
    """Run the command line and end the process with its exit code."""
    for name, place in strangers().items():
        sys.exit(
            f"amends: the package {name!r} is taken from {place or 'nowhere'}, not from {ROOT}: "
            "rename what hides it, or take it off PYTHONPATH"
        )
    from orchestrator.redaction import install_exception_hooks  # noqa: PLC0415 - likewise
    from recovery.cli.program import amends  # noqa: PLC0415 - `import recovery.cli` stays cheap

    install_exception_hooks()
    amends(prog_name="amends")
