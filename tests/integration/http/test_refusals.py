"""What is refused at the door: with a problem, without repeating a word of it, never with 500."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx2
import pytest

from steps.webhooks.inbox import MAX_BODY_BYTES
from tests.http_edge import TOKEN, HttpEdge, order, problem
from tests.worker_processes import until

CARD = "4242424242424242"
"""A number that every gateway gives for tests."""


def raw(**changes: str) -> bytes:
    """The JSON of a start, with fields put in as text."""
    fields = {"definition": '"checkout"', "key": '"R-1"', "payload": json.dumps(order()["payload"])}
    return (
        "{" + ",".join(f'"{name}":{text}' for name, text in (fields | changes).items()) + "}"
    ).encode()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "body_refused"),
        (b"{", "body_refused"),
        (b"[]", "body_refused"),
        (b"null", "body_refused"),
        (b'"text"', "body_refused"),
        (b"\xff\xfe{}", "body_refused"),
        (raw() + b"\xff", "body_refused"),
        (raw() + b"{}", "body_refused"),
        (raw(payload='{"units":NaN}'), "body_refused"),
        (raw(payload='{"units":-Infinity}'), "body_refused"),
        (raw(payload='{"units":1e999}'), "body_refused"),
        (raw(payload='{"units":' + "9" * 5000 + "}"), "body_refused"),
        (raw(payload='{"units":99999999999999999999}'), "body_refused"),
        (raw(payload='{"a":1,"a":2}'), "body_refused"),
        (raw()[:-1] + b',"key":"R-2"}', "body_refused"),
        (raw(payload='{"a":"\\u0000"}'), "body_refused"),
        (raw(payload='{"\\u0000":1}'), "body_refused"),
        (raw(payload='{"a":"\\ud800"}'), "body_refused"),
        (raw(definition='"\\ud800"'), "body_refused"),
        (raw(key='"\\ud800"'), "body_refused"),
        (raw(key='"a\\u0000"'), "body_refused"),
        (raw(payload="[" * 100_000), "body_refused"),
        (raw(payload="[" * 50 + "]" * 50), "body_refused"),
        (raw(payload="[" * 100_000 + "]" * 100_000), "body_refused"),
        (raw(payload='{"a":' * 40 + "1" + "}" * 40), "body_refused"),
        (raw(payload="[]"), "body_refused"),
        (raw(payload="null"), "body_refused"),
        (raw(key="7"), "body_refused"),
        (raw(key='""'), "body_refused"),
        (raw(key=json.dumps("k" * 201)), "body_refused"),
        (raw(key='"a\\nb"'), "key_refused"),
        (raw(key='"  "'), "key_refused"),
        (raw(version="0"), "body_refused"),
        (raw(version='"1"'), "body_refused"),
        (raw(version="1.0"), "body_refused"),
        (raw(version="true"), "body_refused"),
        (raw(surprise="1"), "body_refused"),
        (raw(payload='{"units":1}'), "payload_refused"),
        (raw(payload=json.dumps({"order_id": "x" * 70_000})), "payload_refused"),
    ],
    ids=lambda value: value[:60].decode(errors="replace") if isinstance(value, bytes) else "",
)  # fmt: skip
def test_a_body_that_cannot_be_accepted(edge: HttpEdge, body: bytes, code: str) -> None:
    before = edge.sagas()

    answer = edge.post(body, str(uuid4()))

    problem(answer, 422 if code in ("payload_refused", "key_refused") else 400, code)
    assert "surprise" not in answer.text
    assert edge.sagas() == before


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (order(order_id=CARD), "a"),
        ({**order(), "key": CARD}, "b"),
        ({**order(), "key": "4242 4242 4242 4242"}, "c"),
        ({**order(), "definition": CARD}, "d"),
        ({**order(), CARD: 1}, "e"),
        ({**order(), "payload": {CARD: 1}}, "f"),
        ({**order(), "payload": {"note": ["a", {"b": f"paid with {CARD}, thanks"}]}}, "g"),
        ({**order(), "payload": {"note": int(CARD)}}, "h"),
        ({**order(), "payload": {"cvv": "123"}}, "i"),
        (order(), CARD),
        (order(), f'"{CARD}"'),
        (order(), f'"pay-{CARD}"'),
    ],
)
def test_card_data_is_refused_in_every_field(edge: HttpEdge, body: Any, key: str) -> None:
    before = edge.sagas()

    answer = edge.post(body, key)

    problem(answer, 422, "card_data")
    assert CARD not in answer.text
    assert edge.sagas() == before
    until(lambda: answer.headers["x-request-id"] in edge.member.log, what="its line in the log")
    assert CARD not in edge.member.log


def test_card_data_in_a_path_or_a_header_is_not_logged(edge: HttpEdge) -> None:
    answers = [
        edge.http.get(f"/sagas/{CARD}"),
        edge.http.get(f"/{CARD}?card={CARD}"),
        edge.http.get("/healthz", headers={"X-Request-Id": CARD}),
        edge.http.post(f"/webhooks/{CARD}", content=b"{}"),
    ]

    for answer in answers:
        assert CARD not in f"{answer.text}{answer.headers}"
    until(lambda: answers[-1].headers["x-request-id"] in edge.member.log, what="a line in the log")
    assert CARD not in edge.member.log


@pytest.mark.parametrize(
    "key", [None, "", '""', '"', '"a', 'a"', '"a"b', '"a";b=1', "a b", "ä", "(a)", "x" * 201]
)
def test_an_idempotency_key_must_be_one_that_can_be_read(edge: HttpEdge, key: str | None) -> None:
    headers = [(b"Content-Type", b"application/json")]
    headers += [] if key is None else [(b"Idempotency-Key", key.encode())]

    answer = edge.http.post("/sagas", json=order(), headers=headers)

    problem(answer, 400, "idempotency_key_refused")


def test_two_idempotency_keys_are_none(edge: HttpEdge) -> None:
    headers = [("Idempotency-Key", '"a"'), ("Idempotency-Key", '"a"')]

    problem(edge.http.post("/sagas", json=order(), headers=headers), 400, "idempotency_key_refused")


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x",
     f"Bearer {TOKEN} {TOKEN}", "Bearer \xff"],
)  # fmt: skip
@pytest.mark.parametrize(("method", "path"), [("POST", "/sagas"), ("GET", f"/sagas/{UUID(int=1)}")])
def test_who_bears_no_token_is_told_nothing(
    edge: HttpEdge, authorization: str | None, method: str, path: str
) -> None:
    given = None if authorization is None else authorization.encode("latin-1")
    headers = [] if given is None else [(b"Authorization", given)]

    answer = httpx2.request(method, edge.url + path, headers=headers, content=b"not even JSON")

    problem(answer, 401, "not_authenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": ""},
    ],
)
def test_a_body_must_be_json_as_it_stands(edge: HttpEdge, headers: dict[str, str]) -> None:
    headers = {**headers, "Idempotency-Key": "a"}

    answer = edge.http.post("/sagas", content=raw(), headers=headers)

    problem(answer, 415, "media_type_refused")


def chunks(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b" " * 65_536


@pytest.mark.parametrize("path", ["/sagas", "/webhooks/sandbox"])
def test_a_body_that_proves_too_large_is_not_read_to_its_end(edge: HttpEdge, path: str) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": "a"}
    answer = edge.http.post(path, content=chunks(MAX_BODY_BYTES // 65_536 + 1), headers=headers)

    problem(answer, 413, "body_too_large")


@pytest.mark.parametrize("path", ["/sagas", "/webhooks/sandbox"])
def test_a_body_that_says_it_is_too_large_is_not_awaited(edge: HttpEdge, path: str) -> None:
    place = urlsplit(edge.url)
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: here",
        f"Authorization: Bearer {TOKEN}",
        "Content-Type: application/json",
        f"Content-Length: {MAX_BODY_BYTES + 1}",
    ]
    with socket.create_connection((str(place.hostname), place.port or 0), timeout=5) as wire:
        wire.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = wire.recv(65_536)

    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.long
def test_a_body_that_does_not_arrive_ends_its_connection(edge: HttpEdge) -> None:
    place = urlsplit(edge.url)
    lines = ["POST /webhooks/sandbox HTTP/1.1", "Host: here", "Content-Length: 10", "", "{"]
    with socket.create_connection((str(place.hostname), place.port or 0), timeout=30) as wire:
        wire.sendall("\r\n".join(lines).encode())
        answer = b"".join(iter(lambda: wire.recv(65_536), b""))  # to the end, that the server makes

    assert answer.startswith(b"HTTP/1.1 408 ")


def test_headers_have_a_limit(edge: HttpEdge) -> None:
    answer = edge.http.get("/healthz", headers={"X-Long": "x" * 40_000})

    problem(answer, 431, "headers_too_large")


def test_a_method_that_is_none_of_a_path(edge: HttpEdge) -> None:
    answer = edge.http.delete("/sagas")

    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_no_page_loads_scripts_from_elsewhere(edge: HttpEdge) -> None:
    for path in ("/docs", "/redoc"):
        problem(edge.http.get(path), 404, "not_found")
