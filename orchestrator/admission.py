"""Whether an attempt had better wait before it is claimed: what guards its calls says no just now.

Asked outside of any claim, so that waiting out an outage leaves nothing in the saga's log. It is a
question about a moment: who is admitted may be refused all the same when its call is made.
"""

from __future__ import annotations

from datetime import timedelta

from orchestrator.context import Resources
from orchestrator.definitions import Definitions
from orchestrator.guarding import CallPolicy, Guards, Unguarded, key_of_calls
from orchestrator.storage.rows import AttemptId


class Admission:
    """Asks the guards of a process, by what its definitions declare."""

    def __init__(self, definitions: Definitions, resources: Resources) -> None:
        self._definitions = definitions
        self._resources = resources
        self._policies: dict[tuple[str, str], CallPolicy | None] = {}

    def is_free(self, definition: str, step: str) -> bool:
        """Whether nothing guards the calls of the step, so that nobody has to be asked."""
        return self._policy(definition, step) is None or isinstance(self._guards(), Unguarded)

    def pause(self, definition: str, attempt: AttemptId) -> timedelta | None:
        """Return how long the attempt had better wait, or None: it may be claimed."""
        policy = self._policy(definition, attempt.step)
        if policy is None:
            return None
        key = key_of_calls(attempt.saga_id, attempt.step, attempt.direction)
        return self._guards().pause(policy, key)

    def _guards(self) -> Guards:
        return self._resources.get(Guards)  # type: ignore[type-abstract]

    def _policy(self, definition: str, step: str) -> CallPolicy | None:
        """What the newest version of the definition says that has the step."""
        name = (definition, step)
        if name not in self._policies:
            found = [
                (each.version, known.calls)
                for each in self._definitions
                for known in each.steps
                if (each.name, known.name) == name
            ]
            self._policies[name] = max(found, key=lambda each: each[0])[1] if found else None
        return self._policies[name]
