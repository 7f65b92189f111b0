"""Card numbers are planted wherever text enters, and looked for wherever text is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from celery import Celery

from orchestrator.errors import AmendsError, CardNumberError
from orchestrator.state import State
from recovery.demo.scenarios import over_http, traces
from recovery.demo.scenarios.evidence import LINE_SECONDS, ended
from recovery.demo.scenarios.order import UNITS, level_of, stocked
from recovery.demo.scenarios.planted import card, found_in, grouped, masked
from recovery.demo.scenarios.spilling import IN_LOGS, IN_TABLES, SPILLED, SPILLING
from recovery.demo.scenarios.table import Expectation, in_ledger, in_logs, in_saga_log, in_stock
from recovery.demo.stage import Stage, wait_for

TITLE: Final = "log redaction"
KEY: Final = "S-7"

DOORS: Final = (
    *("a start's payload", "a start's token", "a start's key", "a trace"),
    *("a signal", "a signal's id", "a cancel's reason"),
)
HTTP_DOORS: Final = ("a request's body", "a webhook's body")
IN_REQUESTS: Final = ("a request's path", "a request's id", "an Idempotency-Key")
"""What is refused for what it is, or not used at all; it must leave no trace either way."""

IN_KEY: Final = "a message's key"
IN_MESSAGES: Final = ("a message's payload", IN_KEY)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedactionEvidence:
    """What became of the card numbers.

    Attributes:
        refused: by the door at which one was planted, the error's class or the answer over HTTP.
        spilled: the state of the saga that spills them.
        found: by the kind of place that was searched, the planted numbers found there.
        logs, processes: whose logs were searched, and whose there should be.
        masked: by the kind of place that was searched, the numbers whose masked form is there.
        refused_messages: how many the workers say they refused.
    """

    refused: Mapping[str, str]
    spilled: State
    found: Mapping[str, Sequence[str]]
    logs: AbstractSet[str]
    processes: AbstractSet[str]
    masked: Mapping[str, AbstractSet[str]]
    refused_messages: int
    requests: int
    on_hand: int
    reserved: int


def play(stage: Stage) -> list[Expectation]:
    """Run a saga that spills, knock at every door, and send messages; then search everything."""
    payload = stocked(stage, KEY)
    spilled = stage.client.start(SPILLING, {"order_id": KEY}, key=f"{KEY}-spilling")
    doors = _doors(stage, payload, spilled.id)
    refused = {door: _refusal(knock) for door, knock in doors.items()}
    refused |= _refused_over_http(stage, payload)
    over_http.look(stage, card(IN_REQUESTS[0]), request_id=card(IN_REQUESTS[1]))
    over_http.start(stage, {}, key=f"{KEY}-nothing", request=card(IN_REQUESTS[2]))
    _send_messages(stage, payload)
    state = ended(stage, spilled.id)
    everywhere = (*SPILLED, *IN_MESSAGES, *IN_REQUESTS, *refused)

    def is_written() -> bool:
        text = "\n".join(traces.logs(stage).values())
        is_masked = all(masked(each) in text for each in (*IN_LOGS, IN_KEY))
        return is_masked and _refused_messages(text) == len(IN_MESSAGES)

    # What is missing when the time is up makes its cell red.
    wait_for(is_written, LINE_SECONDS)
    wait_for(lambda: traces.is_queue_empty(stage), LINE_SECONDS)
    logs, tables = traces.logs(stage), traces.tables(stage)
    kinds = {
        "tables": tables,
        "broker": traces.broker(stage),
        "logs": logs,
        "ledger": traces.ledger(stage),
        "files": traces.files(stage),
    }
    texts = {kind: "\n".join(each.values()) for kind, each in kinds.items()}
    level = level_of(stage, KEY)
    return expectations(
        RedactionEvidence(
            refused=refused,
            spilled=state,
            found={kind: sorted(found_in(text, everywhere)) for kind, text in texts.items()},
            logs=logs.keys(),
            processes=set(stage.processes),
            masked={
                kind: {each for each in everywhere if masked(each) in text}
                for kind, text in texts.items()
            },
            refused_messages=_refused_messages(texts["logs"]),
            requests=sum(each.order_reference == KEY for each in stage.judge.requests()),
            on_hand=level.on_hand,
            reserved=level.reserved,
        )
    )


def expectations(found: RedactionEvidence) -> list[Expectation]:
    """Compare what was found with what was promised."""
    stored = ("tables", "broker")
    return [
        in_saga_log(
            "starts, signals and cancels with a card number are refused: CardNumberError",
            seen={each: found.refused.get(each) for each in DOORS},
            expected=dict.fromkeys(DOORS, CardNumberError.__name__),
        ),
        in_saga_log(
            "so are HTTP bodies, with 422",
            seen={each: found.refused.get(each) for each in HTTP_DOORS},
            expected=dict.fromkeys(HTTP_DOORS, "422 card_data"),
        ),
        in_saga_log("so are start messages", seen=found.refused_messages, expected=2),
        in_saga_log(
            "the saga that spills them ended as it should",
            seen=found.spilled,
            expected=State.COMPENSATED,
        ),
        in_saga_log(
            "none in any table or in the broker",
            seen={each: list(found.found[each]) for each in stored},
            expected={each: [] for each in stored},
        ),
        in_saga_log(
            "results and errors are stored masked",
            seen=sorted(found.masked["tables"] & set(IN_TABLES)),
            expected=sorted(IN_TABLES),
        ),
        in_ledger("nothing was asked for", seen=found.requests, expected=0),
        in_ledger("none in the ledger's file", seen=found.found["ledger"], expected=[]),
        in_stock(
            "nothing put aside for what was refused",
            seen=(found.on_hand, found.reserved),
            expected=(UNITS, 0),
        ),
        in_logs(
            f"none in the logs of {len(found.processes)} processes",
            seen={"logs": sorted(found.logs), "found": found.found["logs"]},
            expected={"logs": sorted(found.processes), "found": []},
        ),
        in_logs(
            "masked where it was written: ************" + card(IN_LOGS[0])[12:],
            seen=sorted(found.masked["logs"] & {*IN_LOGS, IN_KEY}),
            expected=sorted((*IN_LOGS, IN_KEY)),
        ),
        in_logs(
            "none in any file of the servers, where the masked ones are",
            seen=(found.found["files"], set(IN_TABLES) <= found.masked["files"]),
            expected=([], True),
        ),
    ]


def _doors(stage: Stage, payload: dict[str, Any], saga_id: UUID) -> dict[str, Callable[[], object]]:
    """Every way by which callers give text to a saga, with a card number in it."""
    client = stage.client

    def start(door: str, **changes: Any) -> Callable[[], object]:
        return lambda: client.start("checkout", payload | changes, key=f"{KEY}-{door}")

    return {
        "a start's payload": start("payload", customer_id=card("a start's payload")),
        "a start's token": start("token", payment_method="tok_" + card("a start's token")),
        "a start's key": lambda: client.start("checkout", payload, key=card("a start's key")),
        "a trace": lambda: client.start(
            "checkout", payload, key=f"{KEY}-trace", trace={"baggage": card("a trace")}
        ),
        "a signal": lambda: client.signal(
            saga_id, "paid", {"note": f"card {grouped('a signal')}"}, dedup_id="1"
        ),
        "a signal's id": lambda: client.signal(saga_id, "paid", dedup_id=card("a signal's id")),
        "a cancel's reason": lambda: client.cancel(saga_id, reason=card("a cancel's reason")),
    }


def _refusal(knock: Callable[[], object]) -> str:
    """The class of the error, or that there was none."""
    try:
        knock()
    except AmendsError as error:
        return type(error).__name__
    return "let in"


def _refused_over_http(stage: Stage, payload: dict[str, Any]) -> dict[str, str]:
    """What the HTTP edge answers to bodies with a card number, well signed where that counts."""
    order = payload | {"customer_id": card("a request's body")}
    event = {"id": "evt_card", "type": "payment.authorized", "note": card("a webhook's body")}
    event["created_at"] = datetime.now(UTC).isoformat()
    answers = {
        "a request's body": over_http.start(stage, order, key=f"{KEY}-http", request="card"),
        "a webhook's body": over_http.deliver(stage, json.dumps(event).encode()),
    }
    return {door: f"{each.status} {each.code}" for door, each in answers.items()}


def _send_messages(stage: Stage, payload: dict[str, Any]) -> None:
    """Start by message, as a service does that knows nothing of `SagaClient`."""
    settings = stage.settings
    stranger = Celery("stranger", broker=settings.broker_url, set_as_current=False)
    stranger.conf.broker_transport_options = {"global_keyprefix": settings.key_prefix}
    for key, customer in (
        (f"{KEY}-message", card("a message's payload")),
        (card("a message's key"), "C-1"),
    ):
        order = payload | {"customer_id": customer}
        arguments = {"saga": "checkout", "key": key, "payload": order}
        stranger.send_task("amends.start", kwargs=arguments, queue="amends")
    stranger.close()


def _refused_messages(text: str) -> int:
    return text.count('"event": "start.refused"')
