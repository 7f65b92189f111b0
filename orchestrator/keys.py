"""Idempotency keys: derived from what is done, never minted and never from the attempt.

The same saga started twice (even after a fail-over lost the first start) derives the same keys, so
the other side sees a repetition, not a second order. A key begins with the name of the installation
whose saga it is, because two shops, or a shop and its staging copy, may share one account at the
other side: their orders may have one number, and are not one order. A key fits the 255 characters
of the strictest gateways and never holds anything a customer typed.
"""

from __future__ import annotations

import hashlib
import re

from orchestrator.entries import UNDOING, Direction
from orchestrator.state import FoldedSaga

INSTALLATION = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
"""What an installation may be called."""

_OF_AN_INSTALLATION = re.compile(rf"({INSTALLATION.pattern})\.[a-z][a-z0-9_]*(?:-[a-z0-9_]+)+")

_DERIVED = re.compile(r".+-[0-9a-f]{32}")


def forward_key(
    definition: str,
    saga_key: str,
    step: str,
    generation: int = 1,
    *,
    installation: str | None = None,
) -> str:
    """Return the key under which a step acts: the same for all its attempts.

    Args:
        installation: the name that the saga was started under; None for a saga that is older than
            the names of installations.
    """
    parts = [definition, saga_key, step]
    if generation > 1:
        parts.append(f"generation {generation}")
    if installation is None:
        return f"{definition}-{step}-{_digest(*parts)}"
    return f"{installation}.{definition}-{step}-{_digest(installation, *parts)}"


def undo_key(forward: str, reference: str | None, generation: int = 1) -> str:
    """Return the key under which a compensation acts on the effect of that reference."""
    parts = [forward, reference or ""]
    if generation > 1:
        parts.append(f"generation {generation}")
    installation = installation_of(forward)
    prefix = "" if installation is None else f"{installation}."
    return f"{prefix}undo-{_digest(*parts)}"


def installation_of(key: str) -> str | None:
    """Return the installation whose saga a key belongs to; None for a key that names none."""
    named = _OF_AN_INSTALLATION.fullmatch(key)
    return None if named is None else named[1]


def is_derived(key: str) -> bool:
    """Whether a key reads like those of a saga's step or undo, of whichever installation."""
    return _DERIVED.fullmatch(key) is not None


def step_key(
    state: FoldedSaga, definition: str, saga_key: str, step: str, direction: str = Direction.FORWARD
) -> str:
    """Return the key under which the step acts; for an undo, that of the effect it is given."""
    effect = state.effect_to_undo(step) if direction in UNDOING else None
    generation = None if effect is None else effect.generation
    return _key_of_generation(
        state, definition, saga_key, step, generation or state.step(step).generation
    )


def generation_of(
    state: FoldedSaga, definition: str, saga_key: str, step: str, key: str
) -> int | None:
    """Return which of the step's keys `key` is, from 1, or None: it is none of them."""
    for generation in range(1, state.step(step).generation + 1):
        if key == _key_of_generation(state, definition, saga_key, step, generation):
            return generation
    return None


def step_keys(state: FoldedSaga, definition: str, saga_key: str, step: str) -> set[str]:
    """Return every key under which the step may have acted so far, one for each generation."""
    return {
        _key_of_generation(state, definition, saga_key, step, generation)
        for generation in range(1, state.step(step).generation + 1)
    }


def key_of(state: FoldedSaga, definition: str, saga_key: str, step: str, direction: str) -> str:
    """Return the key of the attempt that `state` asks for next; a probe asks of that key."""
    forward = step_key(state, definition, saga_key, step, direction)
    if direction not in UNDOING:
        return forward
    effect = state.effect_to_undo(step)
    if effect is None:
        return undo_key(forward, None, state.step(step).undo_generation)
    return undo_key(forward, effect.reference, effect.undo_generation)


def _key_of_generation(
    state: FoldedSaga, definition: str, saga_key: str, step: str, generation: int
) -> str:
    name = state.step(step).key_name or step
    return forward_key(definition, saga_key, name, generation, installation=state.installation)


def _digest(*parts: str) -> str:
    joined = "\x1f".join(parts).encode()
    return hashlib.sha256(joined).hexdigest()[:32]
