"""Which gateways and carriers are out, as far as the workers know."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.definitions import Definitions
from orchestrator.guarding import CallPolicy
from recovery.doctor.findings import Finding, ok, skipped, warn
from workers.bootstrap import shared_guards
from workers.settings import Settings


def circuits(settings: Settings, definitions: Definitions) -> Iterator[Finding]:
    """Every circuit that a step declares is closed, and the server that holds them answers."""
    policies = {step.calls for each in definitions for step in each.steps if step.calls}
    url = settings.shared_guard_url
    if url is None:
        yield skipped("circuits", "no Redis to share them in: calls are not guarded")
        return
    guards = shared_guards(settings, url)
    for policy in sorted(policies, key=_name):
        circuit = guards.circuit(policy)
        if circuit is None:
            continue
        state = circuit.state()
        name = f"circuit {policy.name}"
        if state is None:
            yield warn(name, "not known: Redis does not answer", "calls are let through meanwhile")
        elif state.is_open:
            since, until = state.open_for.total_seconds(), state.next_trial.total_seconds()
            yield warn(
                name,
                f"open for {since:.0f} s",
                f"is the other side out? it is tried again in {until:.0f} s",
            )
        else:
            yield ok(name, "closed")


def _name(policy: CallPolicy) -> str:
    return policy.name
