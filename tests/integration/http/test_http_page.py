"""docs/http.md: its curl lines are sent as they stand, and its table has every problem."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from pathlib import Path

import httpx2

from tests.http_edge import TOKEN, HttpEdge
from workers.http.problems import KINDS

PAGE = (Path(__file__).parents[3] / "docs/http.md").read_text()
LINES = re.findall(r"^\$ (curl .+)$", PAGE, re.MULTILINE)
PLACE = "http://127.0.0.1:8080"
SHOWN_ID = "872b67bb-ad58-416f-ae5d-05a4fc9f93ab"


def sent(edge: HttpEdge, line: str) -> httpx2.Response:
    """What curl would send for a line of the page, to the server of this test."""
    url, headers, body = "", {}, None
    words = iter(shlex.split(line)[1:])
    for word in words:
        if word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value.replace("$TOKEN", TOKEN)
        elif word == "-d":
            body = next(words)
        elif word != "-i":
            url = word
    assert url.startswith(PLACE)
    method = "GET" if body is None else "POST"
    url = edge.url + url.removeprefix(PLACE)
    return httpx2.request(method, url, headers=headers, content=body)


def test_its_lines_do_what_it_says(edge: HttpEdge) -> None:
    start, look, alive, ready = LINES

    started = sent(edge, start)
    assert started.status_code == 201, started.text
    shown = re.findall(r"^(\{.+\})$", PAGE, re.MULTILINE)
    assert started.text.replace(started.json()["id"], SHOWN_ID) == shown[0]
    assert sent(edge, start).text == started.text
    seen = sent(edge, look.replace(SHOWN_ID, started.json()["id"]))
    assert (seen.status_code, seen.json()["key"]) == (200, "A-1009")
    assert [sent(edge, each).status_code for each in (alive, ready)] == [200, 200]


def test_every_line_for_curl_is_sent_by_a_test() -> None:
    assert len(LINES) == 4
    assert PAGE.count("curl ") == len(LINES)


def test_its_table_has_every_problem_under_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (`.+?) \|", PAGE, re.MULTILINE)
    shown: dict[int, set[str]] = defaultdict(set)
    for status, codes in rows:
        shown[int(status)] |= set(re.findall(r"`(\w+)`", codes))
    known: dict[int, set[str]] = defaultdict(set)
    for kind in KINDS:
        known[kind.status].add(kind.code)

    assert shown == known


def test_its_routes_are_those_that_are_served(edge: HttpEdge) -> None:
    document = edge.http.get("/openapi.json").json()
    served = {f"{m.upper()} {path}" for path, each in document["paths"].items() for m in each}

    assert set(re.findall(r"^\| `((?:GET|POST) /\S+)` \|", PAGE, re.MULTILINE)) == {
        *served,
        "GET /openapi.json",
    }
