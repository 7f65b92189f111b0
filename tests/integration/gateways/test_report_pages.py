"""A gateway's report by pages: a broken line spoils itself, a broken page ends the report."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest

from steps.gateways.errors import LookupFailedError
from steps.gateways.payment import ReportLine, UnreadableLine
from tests.integration.gateways.calls import LONG, connected
from tests.integration.gateways.test_stripe_gateway import connected_to
from tests.paged_peer import LOST, page, paged_peer, told

DAY = date(2026, 11, 23)
AT = "2026-11-23T12:00:00+00:00"

BROKEN: list[object] = [
    None,
    "torn",
    7,
    [],
    {},
    told("x", AT, operation="chargeback"),
    told("x", AT, amount_minor="100"),
    told("x", AT, amount_minor=1.5),
    told("x", AT, amount_minor=True),
    told("x", AT, amount_minor=2**63),
    told("x", AT, currency="XYZ"),
    told("x", AT, currency=["EUR"]),
    told("x", "2026-11-23T12:00:00"),
    told("x", "never"),
    told("x", AT, reference=None),
    told("x", AT, key=12),
]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_line_hides_no_other(broken: object) -> None:
    pages = [page([told("a", AT), broken, told("b", AT)], 3), page([told("c", AT)])]

    with paged_peer(pages) as url, connected(url) as gateway:
        lines = list(gateway.list(DAY, timeout_seconds=LONG))

    assert [isinstance(each, ReportLine) and each.order_reference for each in lines] == [
        "a",
        False,
        "b",
        "c",
    ]
    assert isinstance(lines[1], UnreadableLine)
    assert json.loads(lines[1].raw) == broken


BROKEN_PAGES = {
    "no JSON": b"<html>",
    "cut JSON": page([told("a", AT)])[:-9],
    "no object": b"[]",
    "nested too deep": b"[" * 100_000,
    "lost": LOST,
    "no lines": json.dumps({"next": None}).encode(),
    "lines are no list": page({"error": "busy"}),
    "lines are null": page(None),
    "no word of what follows": json.dumps({"lines": []}).encode(),
    "text for what follows": page([], ""),
    "no for what follows": page([], following=False),
    "the same page again": page([told("a", AT)], 6),
}


@pytest.mark.parametrize("broken", BROKEN_PAGES.values(), ids=BROKEN_PAGES.keys())
def test_a_broken_page_is_no_end_of_the_report(broken: bytes) -> None:
    pages = [page([told(f"o-{each}", AT)], each) for each in range(1, 7)]

    with paged_peer([*pages, broken]) as url, connected(url) as gateway:
        lines = gateway.list(DAY, timeout_seconds=LONG)
        assert len([next(lines) for _ in pages]) == 6
        with pytest.raises(LookupFailedError):
            next(lines)


def test_an_answer_that_cannot_be_unpacked_is_no_end_of_the_report() -> None:
    with (
        paged_peer([page([])], headers={"content-encoding": "gzip"}) as url,
        connected(url) as gateway,
        pytest.raises(LookupFailedError),
    ):
        list(gateway.list(DAY, timeout_seconds=LONG))


# Stripe's events.


def event(number: int, **changes: Any) -> dict[str, Any]:
    moved = {
        "id": f"pi_{number}",
        "object": "payment_intent",
        "amount_received": 100,
        "currency": "eur",
        "metadata": {"order_reference": f"o-{number}"},
        "client_secret": f"pi_{number}_secret_x",
        "receipt_email": "eve@example.com",
    }
    return {
        "id": f"evt_{number}",
        "object": "event",
        "type": "payment_intent.succeeded",
        "created": 1_763_899_200,
        "request": {"idempotency_key": f"k-{number}"},
        "data": {"object": moved | changes},
    }


def events(*rows: object, more: object = False) -> bytes:
    return json.dumps(
        {"object": "list", "url": "/v1/events", "data": rows, "has_more": more}
    ).encode()


NOTHING = events()
BROKEN_EVENTS: list[object] = [
    None,
    "torn",
    [],
    {},
    event(9) | {"type": "charge.disputed"},
    event(9) | {"created": "noon"},
    event(9) | {"created": 10**18},
    event(9) | {"data": {"object": []}},
    event(9) | {"data": "torn"},
    event(9, amount_received="100"),
    event(9, currency="zzz"),
    event(9, metadata={"order_reference": 5}),
]


@pytest.mark.parametrize("broken", BROKEN_EVENTS)
def test_a_broken_event_hides_no_other(broken: object) -> None:
    answers = [events(event(3), broken, event(2), more=True), events(event(1)), NOTHING]

    with paged_peer(answers) as url, connected_to(url) as gateway:
        lines = list(gateway.list(DAY, timeout_seconds=LONG))

    assert [isinstance(each, ReportLine) and each.reference for each in lines] == [
        "pi_1",
        "pi_2",
        False,
        "pi_3",
    ]


def test_of_a_broken_event_nothing_is_shown_that_only_the_payer_should_know() -> None:
    answers = [events(event(9, amount_received=None)), NOTHING]

    with paged_peer(answers) as url, connected_to(url) as gateway:
        [line] = gateway.list(DAY, timeout_seconds=LONG)

    assert isinstance(line, UnreadableLine)
    assert json.loads(line.raw) == {
        "id": "evt_9",
        "object": "event",
        "type": "payment_intent.succeeded",
        "created": 1_763_899_200,
        "data": {
            "id": "pi_9",
            "object": "payment_intent",
            "amount_received": None,
            "currency": "eur",
        },
    }


@pytest.mark.parametrize(
    "broken",
    [
        b"<html>",
        LOST,
        b'{"object": "list", "data": []}',
        events(more=None),
        events(more=True),
        events("torn", more=True),
        events(event(2), more=True),
        b'{"object": "list", "data": {}, "has_more": false}',
    ],
)
def test_a_broken_page_of_events_is_no_end_of_the_report(broken: bytes) -> None:
    answers = [events(event(3), more=True), events(event(2), more=True), broken, NOTHING]

    with (
        paged_peer(answers) as url,
        connected_to(url) as gateway,
        pytest.raises(LookupFailedError),
    ):
        list(gateway.list(DAY, timeout_seconds=LONG))
