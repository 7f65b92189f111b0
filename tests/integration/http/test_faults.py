"""A fault of ours: answered without a word about it, and found in the log by the request's id."""

from __future__ import annotations

import json

from tests.http_edge import HttpEdge, order, problem
from tests.worker_processes import until


def test_a_fault_is_found_in_the_log_by_its_request(edge: HttpEdge) -> None:
    place = edge.post(order("F-1"), '"fault-1"').headers["location"]
    edge.sql(
        "INSERT INTO amends.saga_log (saga_id, seq, kind, data) "
        'SELECT id, 999, \'StepFailed\', \'{"step": "pay", "direction": "forward", '
        '"attempt": 1, "terminal": true, "error": "no_error_of_ours"}\' '
        "FROM amends.saga WHERE key = 'F-1'"
    )

    answer = edge.http.get(place, headers={"X-Request-Id": "the-failing-one"})

    problem(answer, 500, "internal_error")
    assert "no_error_of_ours" not in answer.text
    until(lambda: "Exception in ASGI application" in edge.member.log, what="the traceback")
    lines = [json.loads(each) for each in edge.member.log.splitlines() if each.startswith("{")]
    ours = [each for each in lines if each.get("request_id") == "the-failing-one"]
    [told] = [each for each in ours if each["event"] == "http.answered"]
    assert (told["status"], told["route"]) == (500, "/sagas/{saga_id}")
    [traceback] = [each for each in ours if "exception" in each]
    assert traceback["level"] == "error"
