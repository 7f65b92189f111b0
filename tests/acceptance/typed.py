"""Commands as an operator types them, each a process of its own with a deployment's settings."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from recovery.isolation import child_environment
from tests.deployment import Deployment
from tests.forkserver import run


def amends(
    deployment: Deployment, *arguments: str, **variables: object
) -> subprocess.CompletedProcess[str]:
    """Run ``amends`` and return how it ended."""
    known = {each: v for each, v in os.environ.items() if not each.startswith("AMENDS_")}
    chosen = deployment.variables | variables
    known |= {f"AMENDS_{each.upper()}": str(value) for each, value in chosen.items()}
    return run(["recovery.cli", *arguments], environment=child_environment(known))


def answers(deployment: Deployment, *arguments: str, **variables: object) -> list[dict[str, Any]]:
    """Run ``amends --json``, which must end well, and return the objects that it prints."""
    ran = amends(deployment, "--json", *arguments, **variables)
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]
