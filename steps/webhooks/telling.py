"""Tells a saga what weighing found: the one way, for webhooks and for reports."""

from __future__ import annotations

from uuid import UUID

from orchestrator.client import SagaClient
from orchestrator.entries import Json
from steps.payment import AUTHENTICATED
from steps.webhooks.weighing import (
    CAPTURE,
    EffectProved,
    News,
    PayerAnswered,
    RefundFailed,
    RefundSettled,
)


def tell(
    client: SagaClient,
    saga_id: UUID,
    news: News,
    *,
    by: str,
    source: str,
    payload: Json = None,
) -> str:
    """Tell the saga one piece of news, and return in words what was done.

    Safe to repeat: the engine takes a fact once.

    Args:
        by: who says so, for the log.
        source: the sender's own name for the fact; a signal of that name is heard once.
        payload: of a signal.

    Raises:
        LogUnavailableError: Postgres did not answer; tell it again.
        StateConflictError: the saga is in no state to be told.
    """
    match news:
        case PayerAnswered():
            client.signal(saga_id, AUTHENTICATED, payload, dedup_id=source)
            return f"signalled {AUTHENTICATED}"
        case EffectProved(step=step, effect=effect, key=key):
            client.report_effect(saga_id, step, effect, by=by, key=key)
            return f"reported the effect of {step} to the saga"
        case RefundSettled(reference=reference):
            client.report_settled(saga_id, CAPTURE, reference, by=by)
            return f"told the saga that refund {reference} is final"
        case RefundFailed(reference=reference):
            client.report_undo_failed(saga_id, CAPTURE, reference, by=by)
            return f"told the saga that refund {reference} failed"
