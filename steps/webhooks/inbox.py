"""Where gateways deliver: verified, kept and committed, then acknowledged, then looked into.

A delivery that was acknowledged is a row, so no crash loses it; one that was not is repeated by its
sender. Processing never believes a webhook: it looks at the gateway, and tells the saga what it saw
(`steps.webhooks.looking`). That may be done late, twice, in any order and by many at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from orchestrator.errors import LogUnavailableError, PayloadError
from orchestrator.instrumentation import emit
from orchestrator.payloads import refuse_card_data
from orchestrator.storage.database import Moved
from orchestrator.strict_json import parse_json_object
from steps.gateways.reading import UnreadableAnswerError
from steps.gateways.webhooks import WebhookError, WebhookVerifier
from steps.storage.webhook_inbox import ClaimedWebhook, Delivery, WebhookOutcome, WebhookRows
from steps.webhooks.forms import FORMS
from steps.webhooks.looking import Later, Look, Nothing, Seen, Told, Unclear

MAX_BODY_BYTES: Final = 256 * 1024
"""Stripe's largest events are a tenth of it."""

CLAIM: Final = timedelta(seconds=60)
"""Longer than a look can take: one question to the gateway and a few to Postgres."""

FIRST_PAUSE: Final = timedelta(seconds=1)
LONGEST_PAUSE: Final = timedelta(hours=1)
SOON: Final = timedelta(seconds=15)
SHARE_OF_AGE: Final = 0.05
"""A pause is at most 15 s, or this share of the time since it was received: a saga that waits for
it, with a deadline, has waited for about as long."""

PATIENCE: Final = timedelta(days=1)
"""How long a webhook may find no saga, or no gateway, before a person is told."""

PARKED_PAUSE: Final = timedelta(days=1)


class UnknownGatewayError(WebhookError):
    """No gateway of that name delivers here: it is unknown, or has no secret. Answer with 404."""


class MalformedWebhookError(WebhookError):
    """Signed, and yet no event of that gateway. Answer with 400."""


class OversizedWebhookError(WebhookError):
    """The body is larger than `MAX_BODY_BYTES`; nothing of it was read. Answer with 413."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A delivery that is kept. `is_first` is False when its event was kept before."""

    event_id: str
    is_first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReport:
    """What one run did.

    Args:
        told: webhooks after which a saga was told something.
        nothing_new: the saga knew, or has nothing to know.
        ignored: of a type that we do not look after.
        put_off: due again later.
        parked: in front of a person; due again too, though rarely.
    """

    told: int = 0
    nothing_new: int = 0
    ignored: int = 0
    put_off: int = 0
    parked: int = 0

    @property
    def total(self) -> int:
        """How many webhooks were looked at."""
        return self.told + self.nothing_new + self.ignored + self.put_off + self.parked


class WebhookInbox:
    """Receives webhooks, and processes them.

    Args:
        verifiers: by the name of the gateway; of others nothing is taken.
        look: looks into one event; see `steps.webhooks.looking.Looking`.
        patience: after which age a webhook that led to nothing is parked.
    """

    def __init__(
        self,
        rows: WebhookRows,
        verifiers: Mapping[str, WebhookVerifier],
        look: Callable[[str, str, Mapping[str, Any]], Look],
        *,
        patience: timedelta = PATIENCE,
    ) -> None:
        self._rows = rows
        self._verifiers = verifiers
        self._look = look
        self._patience = patience

    def receive(self, gateway: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        """Keep a delivery; it is committed when this returns, and the sender may be told so.

        Nothing is processed here. A second delivery of an event changes nothing.

        Args:
            headers: of the request; the case of their names does not matter.
            body: the bytes as they arrived.

        Raises:
            UnknownGatewayError: nobody of that name delivers here (404).
            OversizedWebhookError: the body is too large (413).
            WebhookSignatureError, WebhookReplayError: it is not the gateway's, or not of now (400).
            MalformedWebhookError: it is no event (400).
            CardNumberError: the body holds a card number, which is not stored (422).
            LogUnavailableError: whether it is kept is not known (503); the sender repeats it.
        """
        form, verifier = FORMS.get(gateway), self._verifiers.get(gateway)
        if form is None or verifier is None:
            raise UnknownGatewayError(f"no gateway {gateway[:40]!r} delivers here")
        if len(body) > MAX_BODY_BYTES:
            raise OversizedWebhookError(f"a webhook has at most {MAX_BODY_BYTES:,} bytes")
        signed_at = verifier.verify(body, _header(headers, form.header))
        told = _parsed(body)
        try:
            envelope = form.envelope(told)
        except UnreadableAnswerError as error:
            raise MalformedWebhookError(f"no event of {gateway}: {error}") from None
        refuse_card_data(told, "body")
        is_first = self._rows.keep(
            Delivery(
                gateway=gateway,
                account=envelope.account,
                event_id=envelope.id,
                kind=envelope.type,
                body=body,
                signed_at=signed_at,
            )
        )
        return Receipt(event_id=envelope.id, is_first=is_first)

    def process_due(self, limit: int = 100) -> ProcessReport:
        """Process up to `limit` webhooks that are due, and return what came of them.

        Safe to run many times at once. One that fails does not keep the others from their turn.

        Raises:
            LogUnavailableError: Postgres did not answer; what was claimed is due again in a minute.
        """
        counts: dict[str, int] = {}
        if not self._rows.exist():
            return ProcessReport()
        for _ in range(limit):
            try:
                claimed = self._rows.claim(CLAIM)
            except Moved:
                break
            if claimed is None:
                break
            came = self._process(claimed)
            counts[came] = counts.get(came, 0) + 1
        return ProcessReport(**counts)

    def _process(self, claimed: ClaimedWebhook) -> str:
        form = FORMS.get(claimed.gateway)
        if form is None:
            return self._put_off(claimed, "this version does not know the gateway")
        if claimed.kind not in form.kinds:
            note = f"{claimed.kind} leads to nothing"
            return self._end(claimed, WebhookOutcome.IGNORED, Seen(note=note))
        try:
            found = self._look(claimed.gateway, claimed.event_id, _parsed(claimed.body))
        except LogUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - it stays due, whatever it is
            return self._put_off(claimed, f"{type(error).__name__}: {error}")
        match found:
            case Told():
                return self._end(claimed, WebhookOutcome.TOLD, found.seen)
            case Nothing():
                return self._end(claimed, WebhookOutcome.NOTHING_NEW, found.seen)
            case Later():
                longest = SOON if found.is_outage else LONGEST_PAUSE
                return self._put_off(claimed, found.reason, longest=longest)
            case Unclear():
                return self._put_off(claimed, found.question, park=True)

    def _end(self, claimed: ClaimedWebhook, outcome: WebhookOutcome, seen: Seen) -> str:
        self._rows.end(claimed, outcome, seen.note, seen.saga_id)
        emit(
            "webhook.processed",
            gateway=claimed.gateway,
            event_id=claimed.event_id,
            kind=claimed.kind,
            outcome=outcome.value,
            saga_id=seen.saga_id,
        )
        return outcome.value

    def _put_off(
        self,
        claimed: ClaimedWebhook,
        reason: str,
        *,
        park: bool = False,
        longest: timedelta = LONGEST_PAUSE,
    ) -> str:
        is_parked = self._rows.put_off(
            claimed,
            reason,
            pause=min(FIRST_PAUSE * 2 ** min(claimed.tries - 1, 20), longest),
            soon=SOON,
            share_of_age=SHARE_OF_AGE,
            patience=self._patience,
            parked_pause=PARKED_PAUSE,
            park=park,
        )
        told = {
            "gateway": claimed.gateway,
            "event_id": claimed.event_id,
            "kind": claimed.kind,
            "reason": reason,
        }
        if is_parked:
            emit("webhook.parked", **told)
            return "parked"
        emit("webhook.put_off", **told)
        return "put_off"


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value for given, value in headers.items() if given.lower() == name), None)


def _parsed(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object that a body is.

    Raises:
        MalformedWebhookError: it is none, or can be read in two ways.
    """
    try:
        return parse_json_object(body)
    except PayloadError as error:
        raise MalformedWebhookError(str(error)) from None
