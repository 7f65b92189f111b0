"""Idempotency keys: derived from what is done, never minted and never from the attempt.

The same saga started twice (even after a fail-over lost the first start) derives the same keys, so
the other side sees a repetition, not a second order. A key fits the 255 characters of the strictest
gateways and never holds anything a customer typed.
"""

from __future__ import annotations

import hashlib

from orchestrator.entries import Direction
from orchestrator.state import FoldedSaga


def forward_key(definition: str, saga_key: str, step: str, generation: int = 1) -> str:
    """Return the key under which a step acts: the same for all its attempts."""
    parts = [definition, saga_key, step]
    if generation > 1:
        parts.append(f"generation {generation}")
    return f"{definition}-{step}-{_digest(*parts)}"


def undo_key(forward: str, reference: str | None, generation: int = 1) -> str:
    """Return the key under which a compensation acts on the effect of that reference."""
    parts = [forward, reference or ""]
    if generation > 1:
        parts.append(f"generation {generation}")
    return f"undo-{_digest(*parts)}"


def step_key(
    state: FoldedSaga, definition: str, saga_key: str, step: str, direction: str = Direction.FORWARD
) -> str:
    """Return the key under which the step acts; for an undo, that of the effect it is given."""
    known = state.step(step)
    effect = state.effect_to_undo(step) if direction == Direction.COMPENSATE else None
    generation = None if effect is None else effect.generation
    return forward_key(definition, saga_key, known.key_name or step, generation or known.generation)


def generation_of(
    state: FoldedSaga, definition: str, saga_key: str, step: str, key: str
) -> int | None:
    """Return which of the step's keys `key` is, from 1, or None: it is none of them."""
    known = state.step(step)
    for generation in range(1, known.generation + 1):
        if key == forward_key(definition, saga_key, known.key_name or step, generation):
            return generation
    return None


def step_keys(state: FoldedSaga, definition: str, saga_key: str, step: str) -> set[str]:
    """Return every key under which the step may have acted so far, one for each generation."""
    known = state.step(step)
    name = known.key_name or step
    return {
        forward_key(definition, saga_key, name, generation)
        for generation in range(1, known.generation + 1)
    }


def key_of(state: FoldedSaga, definition: str, saga_key: str, step: str, direction: str) -> str:
    """Return the key of the attempt that `state` asks for next; a probe asks for the step's."""
    forward = step_key(state, definition, saga_key, step, direction)
    if direction != Direction.COMPENSATE:
        return forward
    effect = state.effect_to_undo(step)
    if effect is None:
        return undo_key(forward, None, state.step(step).undo_generation)
    return undo_key(forward, effect.reference, effect.undo_generation)


def _digest(*parts: str) -> str:
    joined = "\x1f".join(parts).encode()
    return hashlib.sha256(joined).hexdigest()[:32]
