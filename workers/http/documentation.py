"""Completes the OpenAPI document that FastAPI makes from the routes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from workers.http.access import HEADER
from workers.http.problems import MEDIA_TYPE, NOT_AUTHENTICATED, Problem

_TEXT = {"type": "string"}


def complete(document: dict[str, Any]) -> None:
    """Say in place what holds for every operation: problems, the request's id, no other refusals.

    FastAPI tells of answers to what it cannot validate that `workers.http.problems` gives instead.
    """
    schemas = document["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema()
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for operation in _operations(document):
        responses: dict[str, Any] = operation["responses"]
        own = responses.get("422", {}).get("content", {})
        if own and MEDIA_TYPE not in own:
            del responses["422"]
        for status, response in responses.items():
            headers = response.setdefault("headers", {})
            headers[HEADER] = {"description": "Stands in our log.", "schema": _TEXT}
            if status == str(NOT_AUTHENTICATED.status):
                headers["WWW-Authenticate"] = {"schema": _TEXT}


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()
