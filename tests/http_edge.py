"""A real ``amends serve`` for tests: a process of its own, on a real database."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import sqlalchemy

from orchestrator.storage.database import create_engine
from recovery.isolation import child_environment
from steps.gateways.sandbox.signature import signed
from tests.deployment import Member
from tests.worker_processes import until

TOKEN = "a-token-of-these-tests-0123456789"
OTHER_TOKEN = "another-token-of-these-tests-0123"
WEBHOOK_SECRET = "whsec_of_these_tests"
NO_BROKER = "redis://127.0.0.1:1/0"


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


TOKENS = f"shop={hashed(TOKEN)} office={hashed(OTHER_TOKEN)}"


class HttpEdge:
    """One server and a client of it that bears a token."""

    def __init__(self, database: str, directory: Path, **variables: object) -> None:
        chosen = {
            "database_url": database,
            "broker_url": NO_BROKER,
            "http_tokens": TOKENS,
            "sandbox_webhook_secrets": WEBHOOK_SECRET,
            "log_format": "json",
            **variables,
        }
        known = {each: v for each, v in os.environ.items() if not each.startswith("AMENDS_")}
        known |= {f"AMENDS_{name.upper()}": str(value) for name, value in chosen.items()}
        number = len(list(directory.glob("serve-*.log")))
        self.member = Member(
            "serve",
            [sys.executable, "-m", "recovery.cli", "serve", "--port", "0"],
            environment=child_environment(known),
            log=directory / f"serve-{number}.log",
        )
        self.url = self._listening()
        self.engine: sqlalchemy.Engine = create_engine(database)
        self.http = httpx2.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30
        )

    def _listening(self) -> str:
        place = re.compile(r"listening on (http://\S+)")
        found = until(
            lambda: place.search(self.member.log) or not self.member.is_alive, what="a server"
        )
        assert isinstance(found, re.Match), self.member.log
        until(lambda: "Application startup complete" in self.member.log, what="start-up")
        return found[1]

    def post(self, body: Any, key: str | None = '"request-1"', **headers: str) -> httpx2.Response:
        """POST /sagas; a body that is no bytes is sent as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        known = {"Content-Type": "application/json"}
        if key is not None:
            known["Idempotency-Key"] = key
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post("/sagas", content=content, headers=known | given)

    def deliver(
        self, body: bytes, *, secret: str = WEBHOOK_SECRET, gateway: str = "sandbox"
    ) -> httpx2.Response:
        """POST a webhook that the sandbox could have signed."""
        header = signed(body, [secret], at=int(time.time()))
        return self.http.post(
            f"/webhooks/{gateway}", content=body, headers={"Sandbox-Signature": header}
        )

    def sql(self, statement: str, **values: Any) -> list[Any]:
        with self.engine.begin() as connection:
            result = connection.execute(sqlalchemy.text(statement), values)
            return list(result.fetchall()) if result.returns_rows else []

    def sagas(self) -> int:
        """How many sagas there are."""
        return int(self.sql("SELECT count(*) FROM amends.saga")[0][0])

    def webhooks(self) -> int:
        """How many webhooks are kept."""
        return int(self.sql("SELECT count(*) FROM shop.webhook")[0][0])

    def close(self) -> None:
        self.http.close()
        self.engine.dispose()
        self.member.kill()


@contextmanager
def serving(database: str, directory: Path, **variables: object) -> Iterator[HttpEdge]:
    """Serve while the block runs."""
    edge = HttpEdge(database, directory, **variables)
    try:
        yield edge
    finally:
        edge.close()


def waits_for_lock(edge: HttpEdge) -> bool:
    """Whether anybody waits for a lock in the database."""
    return bool(
        edge.sql(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
            "AND wait_event_type = 'Lock'"
        )
    )


def order(order_id: str = "O-1", **changes: Any) -> dict[str, Any]:
    """A checkout to start."""
    payload: Mapping[str, Any] = {
        "order_id": order_id,
        "customer_id": "C-7",
        "units": 1,
        "amount_minor": 1590,
        "currency": "EUR",
        "payment_method": "tok_ok",
    }
    return {"definition": "checkout", "key": order_id, "payload": {**payload, **changes}}


def problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The problem that an answer tells of, and nothing else."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert (told["status"], told["code"]) == (status, code)
    assert told["type"] == f"urn:amends:problem:{code}"
    assert told["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    return told
