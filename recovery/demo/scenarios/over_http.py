"""What a shop and a gateway send to the HTTP edge."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx2

from recovery.demo.stage import WEBHOOK_SECRET, Stage
from steps.gateways.sandbox.signature import signed

LONGEST_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back; `code` names a problem, if it is one."""

    status: int
    body: Mapping[str, Any]

    @property
    def code(self) -> str | None:
        code = self.body.get("code")
        return None if code is None else str(code)


def start(stage: Stage, payload: Mapping[str, Any], *, key: str, request: str) -> Answer:
    """Start a checkout; `request` is the caller's own name for the request."""
    body = {"definition": "checkout", "key": key, "payload": payload}
    return _post(
        f"{stage.http_url}/sagas",
        json.dumps(body).encode(),
        {"authorization": f"Bearer {stage.http_token}", "idempotency-key": request},
    )


def deliver(stage: Stage, body: bytes, *, signed_body: bytes | None = None) -> Answer:
    """Deliver a webhook, signed with the gateway's secret over `signed_body` if that is another."""
    mark = signed(signed_body or body, [WEBHOOK_SECRET], at=int(time.time()))
    return _post(stage.webhook_url, body, {"sandbox-signature": mark})


def look(stage: Stage, saga: str, *, request_id: str) -> int:
    """Ask for a saga by whatever text, and return the status of the answer."""
    headers = {"authorization": f"Bearer {stage.http_token}", "x-request-id": request_id}
    url = f"{stage.http_url}/sagas/{quote(saga)}"
    answer = httpx2.get(url, headers=headers, timeout=LONGEST_SECONDS, trust_env=False)
    return answer.status_code


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    answer = httpx2.post(
        url,
        content=body,
        headers={"content-type": "application/json", **headers},
        timeout=LONGEST_SECONDS,
        trust_env=False,
    )
    told = answer.json()
    return Answer(status=answer.status_code, body=told if isinstance(told, dict) else {})
