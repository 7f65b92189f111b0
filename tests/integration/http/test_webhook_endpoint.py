"""Webhooks over HTTP: kept first, acknowledged then, processed after that."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy

from tests.http_edge import HttpEdge, problem, serving
from tests.worker_processes import until


def event(**changes: object) -> bytes:
    """An event of the sandbox that leads to nothing."""
    told = {
        "id": f"evt_{uuid4().hex}",
        "type": "payout.paid",
        "created_at": datetime.now(UTC).isoformat(),
    }
    return json.dumps({**told, **changes}).encode()


def kept(edge: HttpEdge, body: bytes) -> int:
    known = edge.sql(
        "SELECT count(*) FROM shop.webhook WHERE event_id = :id", id=json.loads(body)["id"]
    )
    return int(known[0][0])


def test_a_delivery_is_kept_and_processed_after_the_answer(edge: HttpEdge) -> None:
    body = event()

    answer = edge.deliver(body)

    assert (answer.status_code, answer.json()) == (200, {"is_first": True})
    assert kept(edge, body) == 1
    until(
        lambda: edge.sql(
            "SELECT 1 FROM shop.webhook WHERE event_id = :id AND due_at IS NULL",
            id=json.loads(body)["id"],
        ),
        what="processing, without any sweep",
    )


def test_a_second_delivery_is_told_that_it_is_one(edge: HttpEdge) -> None:
    body = event()
    edge.deliver(body)

    answer = edge.deliver(body)

    assert (answer.status_code, answer.json()) == (200, {"is_first": False})
    assert kept(edge, body) == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "webhook_refused"),
        (b"{", 400, "webhook_refused"),
        (b"[]", 400, "webhook_refused"),
        (b"\xff", 400, "webhook_refused"),
        (b"[" * 100_000, 400, "webhook_refused"),
        (event(id=""), 400, "webhook_refused"),
        (event(id="a\x00b"), 400, "webhook_refused"),
        (event(created_at="yesterday"), 400, "webhook_refused"),
        (event(note="4242424242424242"), 422, "card_data"),
        (
            event(note=json.loads('["4242424242424242"]'.join(["[" * 60, "]" * 60]))),
            422,
            "card_data",
        ),
        (event()[:-1] + b',"id":"evt_2"}', 400, "webhook_refused"),
    ],
    ids=["empty", "half", "list", "no_text", "deep", "no_id", "nul", "no_time", "card",
         "deep_card", "two_ids"],
)  # fmt: skip
def test_what_is_signed_and_no_event_is_refused(
    edge: HttpEdge, body: bytes, status: int, code: str
) -> None:
    before = edge.webhooks()

    problem(edge.deliver(body), status, code)

    assert edge.webhooks() == before


@pytest.mark.parametrize("headers", [{}, {"Sandbox-Signature": "t=1,v1=00"}])
def test_what_is_not_signed_is_not_kept(edge: HttpEdge, headers: dict[str, str]) -> None:
    body = event()

    answer = edge.http.post("/webhooks/sandbox", content=body, headers=headers)

    assert problem(answer, 400, "webhook_refused")["detail"]
    problem(edge.deliver(body, secret="somebody else's"), 400, "webhook_refused")
    assert kept(edge, body) == 0


def test_a_gateway_without_a_secret_delivers_nothing(edge: HttpEdge) -> None:
    for name in ("stripe", "nobody"):
        problem(edge.deliver(event(), gateway=name), 404, "unknown_gateway")


def test_a_webhook_needs_no_token(edge: HttpEdge) -> None:
    edge.http.headers.pop("Authorization")
    try:
        assert edge.deliver(event()).status_code == 200
    finally:
        edge.http.headers.update({"Authorization": "Bearer gone"})


def test_what_could_not_be_kept_is_not_acknowledged(database: str, tmp_path: Path) -> None:
    body = event()
    with serving(database, tmp_path) as edge:
        with edge.engine.connect() as blocker:
            blocker.execute(sqlalchemy.text("LOCK TABLE shop.webhook IN ACCESS EXCLUSIVE MODE"))
            answer = edge.deliver(body)  # Postgres waits for the lock for 2 s
            blocker.rollback()

        problem(answer, 503, "database_unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert kept(edge, body) == 0
        assert edge.deliver(body).json() == {"is_first": True}


def test_slow_processing_keeps_no_answer_back(database: str, tmp_path: Path) -> None:
    """A gateway that takes the question and never answers holds nobody but who asks."""
    payment = {"reference": "pay_1", "order_reference": "O-1", "key": "k"}
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with serving(database, tmp_path, gateway_url=url) as edge:
            answers = [
                edge.deliver(event(type="payment.succeeded", payment=payment)) for _ in range(5)
            ]
            deaf.settimeout(60)
            question, _ = deaf.accept()
            question.close()

            assert {each.status_code for each in answers} == {200}
            assert max(each.elapsed.total_seconds() for each in answers) < 4.5
