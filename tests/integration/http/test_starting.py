"""Starting sagas over HTTP: two keys, two promises."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx2
import pytest
import sqlalchemy

from tests.http_edge import OTHER_TOKEN, HttpEdge, order, problem, waits_for_lock
from tests.worker_processes import until


def fresh() -> str:
    return f"O-{uuid4().hex[:12]}"


def test_a_start_is_durable_and_says_where_the_saga_is(edge: HttpEdge) -> None:
    key = fresh()

    answer = edge.post(order(key), f'"{uuid4()}"')

    assert answer.status_code == 201
    told = answer.json()
    assert (told["definition"], told["key"], told["created"]) == ("checkout", key, True)
    assert answer.headers["location"] == told["links"]["self"] == f"/sagas/{told['id']}"
    assert edge.sql("SELECT key FROM amends.saga WHERE id = :id", id=told["id"]) == [(key,)]


def test_a_repeated_request_gets_the_same_answer(edge: HttpEdge) -> None:
    body, request = order(fresh()), str(uuid4())

    answers = [edge.post(body, key) for key in (f'"{request}"', f'"{request}"', request)]

    assert {(each.status_code, each.text) for each in answers} == {(201, answers[0].text)}


def test_the_order_of_fields_makes_no_other_request(edge: HttpEdge) -> None:
    body, request = order(fresh()), str(uuid4())
    turned = {name: body[name] for name in reversed(body)}

    assert edge.post(body, request).text == edge.post(turned, request).text


def test_another_request_for_the_same_saga_finds_it(edge: HttpEdge) -> None:
    body = order(fresh())
    first = edge.post(body, "request-a-" + body["key"])

    second = edge.post(body, "request-b-" + body["key"])

    assert second.status_code == 200
    assert second.json() == {**first.json(), "created": False}
    assert second.headers["location"] == first.headers["location"]


@pytest.mark.parametrize("field", ["definition", "version", "key", "payload"])
def test_an_idempotency_key_belongs_to_one_body(edge: HttpEdge, field: str) -> None:
    body, request = order(fresh()), str(uuid4())
    edge.post(body, request)
    others = {"definition": "other", "version": 1, "key": fresh(), "payload": {"units": 2}}

    answer = edge.post({**body, field: others[field]}, request)

    problem(answer, 422, "idempotency_key_reused")


def test_a_sagas_key_belongs_to_one_payload(edge: HttpEdge) -> None:
    key = fresh()
    edge.post(order(key), str(uuid4()))

    answer = edge.post(order(key, units=2), str(uuid4()))

    told = problem(answer, 422, "saga_key_reused")
    assert key not in answer.text
    assert "detail" not in told


def test_what_was_refused_leaves_the_idempotency_key_free(edge: HttpEdge) -> None:
    request = str(uuid4())
    problem(edge.post(order(fresh(), units=-1), request), 422, "payload_refused")

    assert edge.post(order(fresh()), request).status_code == 201


def test_the_same_idempotency_key_of_two_callers_is_two(edge: HttpEdge) -> None:
    request = str(uuid4())
    first = edge.post(order(fresh()), request)

    second = edge.post(order(fresh()), request, Authorization=f"Bearer {OTHER_TOKEN}")

    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] != second.json()["id"]


@pytest.mark.parametrize("same_request", [True, False], ids=["same request", "sixteen requests"])
def test_sixteen_starts_at_once_are_one_saga(edge: HttpEdge, same_request: bool) -> None:
    body, request = order(fresh()), str(uuid4())
    ready = threading.Barrier(16)

    def start(number: int) -> httpx2.Response:
        ready.wait()
        return edge.post(body, request if same_request else f"{request}-{number}")

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(start, range(16)))

    statuses = Counter(each.status_code for each in answers)
    ids = {each.json()["id"] for each in answers if each.status_code != 409}
    assert edge.sql("SELECT count(*) FROM amends.saga WHERE key = :key", key=body["key"]) == [(1,)]
    assert len(ids) == 1
    if same_request:
        assert statuses.keys() <= {201, 409}
        assert statuses[201] >= 1
        assert edge.post(body, request).json()["id"] in ids
    else:
        assert statuses == {201: 1, 200: 15}


def test_a_request_that_is_being_answered_is_not_answered_twice(edge: HttpEdge) -> None:
    body, request = order(fresh()), str(uuid4())
    with ThreadPoolExecutor(1) as pool:
        with edge.engine.connect() as blocker:
            blocker.execute(sqlalchemy.text("LOCK TABLE amends.saga IN EXCLUSIVE MODE"))
            first = pool.submit(edge.post, body, request)
            until(lambda: waits_for_lock(edge), what="a start that waits")
            second = edge.post(body, request)
            blocker.rollback()

        told = problem(second, 409, "in_flight")
        assert int(second.headers["retry-after"]) > 0
        assert "detail" not in told
        assert first.result().status_code == 201
    assert edge.post(body, request).text == first.result().text


def test_a_version_may_be_named(edge: HttpEdge) -> None:
    assert edge.post({**order(fresh()), "version": 1}, str(uuid4())).status_code == 201
    for unknown in ({"version": 999}, {"definition": "chekout"}):
        answer = edge.post({**order(fresh()), **unknown}, str(uuid4()))
        problem(answer, 422, "unknown_definition")


def test_a_request_has_one_id_in_its_answer_and_in_the_log(edge: HttpEdge) -> None:
    own = f"caller-{uuid4().hex}"

    answers = [
        edge.http.get("/sagas/x", headers={"X-Request-Id": given})
        for given in (own, "no request id: a b")
    ]

    ids = [each.headers["x-request-id"] for each in answers]
    assert ids[0] == own
    assert ids[1] not in ("", "no request id: a b")
    until(lambda: len(lines_about(edge, own)) == 1, what="a line")
    (line,) = lines_about(edge, own)
    assert (line["route"], line["status"], line["actor"]) == ("/sagas/{saga_id}", 400, "shop")


def lines_about(edge: HttpEdge, request_id: str) -> list[dict[str, object]]:
    lines = edge.member.events("http.answered")
    return [each for each in lines if each["request_id"] == request_id]


def test_an_answer_comes_fast(edge: HttpEdge) -> None:
    def seconds_of_twenty() -> float:
        began = time.monotonic()
        for _ in range(20):
            edge.http.get("/healthz")
        return time.monotonic() - began

    # Where every answer waits for the client's acknowledgement, no twenty are ever so fast.
    until(lambda: seconds_of_twenty() < 0.6, what="twenty fast answers")
