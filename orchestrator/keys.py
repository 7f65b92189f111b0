"""Idempotency keys: derived from what is done, never minted and never from the attempt.

The same saga started twice (even after a fail-over lost the first start) derives the same keys, so
the other side sees a repetition, not a second order. A key fits the 255 characters of the strictest
gateways and never holds anything a customer typed.
"""

from __future__ import annotations

import hashlib

from orchestrator.entries import Direction
from orchestrator.state import SagaState


def forward_key(definition: str, saga_key: str, step: str, generation: int = 1) -> str:
    """Return the key under which a step acts: the same for all its attempts."""
    parts = [definition, saga_key, step]
    if generation > 1:
        parts.append(f"generation {generation}")
    return f"{definition}-{step}-{_digest(*parts)}"


def undo_key(forward: str, reference: str | None) -> str:
    """Return the key under which a compensation acts on the effect of that reference."""
    return f"undo-{_digest(forward, reference or '')}"


def key_of(state: SagaState, definition: str, saga_key: str, step: str, direction: str) -> str:
    """Return the key of the attempt that `state` asks for next."""
    known = state.step(step)
    forward = forward_key(definition, saga_key, step, known.generation)
    if direction != Direction.COMPENSATE:
        return forward
    effect = known.uncovered_effect
    return undo_key(forward, effect.reference if effect else None)


def _digest(*parts: str) -> str:
    joined = "\x1f".join(parts).encode()
    return hashlib.sha256(joined).hexdigest()[:32]
