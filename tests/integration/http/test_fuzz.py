"""Thousands of odd requests: none is answered with 500, and none otherwise than OpenAPI says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks as openapi

from tests.http_edge import TOKEN, HttpEdge, order
from tests.integration.http.test_webhook_endpoint import event

CHECKS = [
    not_a_server_error,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_headers_conformance,
    openapi.response_schema_conformance,
    openapi.negative_data_rejection,
    openapi.missing_required_header,
    openapi.unsupported_method,
]
"""All but one: a payload that OpenAPI allows may still be none of the definition's."""

POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
OPERATIONS = [
    ("/sagas", "POST", POSITIVE),
    ("/sagas", "POST", NEGATIVE),
    ("/sagas/{saga_id}", "GET", POSITIVE),
    ("/sagas/{saga_id}", "GET", NEGATIVE),
    ("/webhooks/{gateway}", "POST", POSITIVE),
    ("/webhooks/{gateway}", "POST", NEGATIVE),
    ("/healthz", "GET", POSITIVE),
    ("/readyz", "GET", POSITIVE),
]
"""The last two take nothing that could be wrong."""

SLICE = 40
LONG = 2_000


def few(examples: int) -> settings:
    """The same examples in every run, so that a failure comes again."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def each_size() -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "examples", [SLICE, pytest.param(LONG, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
    )


@each_size()
@pytest.mark.parametrize(("path", "method", "mode"), OPERATIONS)
def test_every_operation_answers_as_documented(
    edge: HttpEdge, path: str, method: str, mode: GenerationMode, examples: int
) -> None:
    schema = schemathesis.openapi.from_url(f"{edge.url}/openapi.json")
    seen = []

    @few(examples)
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def asks(case: Case[Any]) -> None:
        answer = case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, checks=CHECKS)
        seen.append(answer.status_code)

    asks()
    assert seen


def test_openapi_has_every_operation(edge: HttpEdge) -> None:
    document = edge.http.get("/openapi.json").json()

    found = {(path, name.upper()) for path, each in document["paths"].items() for name in each}
    assert found == {(path, method) for path, method, _ in OPERATIONS}


texts = st.text(st.characters(codec=None), max_size=30)
numbers = st.integers() | st.floats() | st.sampled_from([10**30, -1, 0, 2**63])
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def changed(told: Mapping[str, Any]) -> st.SearchStrategy[bytes]:
    """JSON like `told`, with some of its fields turned into anything, and some added."""
    some = st.dictionaries(st.sampled_from(sorted(told)), values, max_size=2)
    more = st.dictionaries(texts, values, max_size=1)
    return st.builds(lambda a, b: json.dumps({**told, **a, **b}).encode(), some, more)


def changed_start() -> st.SearchStrategy[bytes]:
    start = order()
    inner = changed(start["payload"]).map(json.loads)
    return changed(start) | inner.map(lambda each: json.dumps({**start, "payload": each}).encode())


def told_well(answer: httpx2.Response, good: int) -> None:
    """An answer of the one good status, or a problem that is the caller's fault."""
    if answer.status_code == good:
        return
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@each_size()
def test_no_start_is_a_fault_of_ours(edge: HttpEdge, examples: int) -> None:
    keys = st.uuids().map(str) | texts.map(lambda each: each.encode(errors="replace").decode())

    @few(examples)
    @given(body=changed_start() | st.binary(max_size=200), key=keys)
    def asks(body: bytes, key: str) -> None:
        headers = [(b"Content-Type", b"application/json")]
        line = key.translate({0: None, 10: None, 13: None}).strip().encode()
        try:
            answer = edge.http.post(
                "/sagas", content=body, headers=[*headers, (b"Idempotency-Key", line)]
            )
        except httpx2.LocalProtocolError:
            return  # no header at all
        if answer.status_code != 200:
            told_well(answer, 201)

    asks()


@each_size()
def test_no_signed_webhook_is_a_fault_of_ours(edge: HttpEdge, examples: int) -> None:
    told = json.loads(event(type="payment.succeeded", payment={"reference": "pay_1"}))

    @few(examples)
    @given(body=changed(told) | st.binary(max_size=300) | values.map(json.dumps).map(str.encode))
    @example(body=b"")
    def delivers(body: bytes) -> None:
        told_well(edge.deliver(body), 200)

    delivers()


@each_size()
def test_no_signature_is_a_fault_of_ours(edge: HttpEdge, examples: int) -> None:
    marks = st.text("tv10=, aé\t;", max_size=40) | st.text(
        st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=60
    )

    @few(examples)
    @given(header=marks, body=st.binary(max_size=20))
    def delivers(header: str, body: bytes) -> None:
        line = [(b"Sandbox-Signature", header.strip().encode("latin-1"))]
        try:
            answer = edge.http.post("/webhooks/sandbox", content=body, headers=line)
        except httpx2.LocalProtocolError:
            return  # no header at all
        assert answer.status_code == 400, answer.text

    delivers()
