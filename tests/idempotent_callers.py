"""A process that calls an idempotent function; what the function does outside is a row per call.

    python -m tests.idempotent_callers URL charge|estimate KEY CALLERS LEASE [hangs]

`charge` has effects outside, `estimate` is repeatable. Waits for a line on stdin before it calls,
and with `hangs` for another one between the effect and the answer. Prints `ready`, then `running`
when the function runs, then one line of JSON for each answer.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import psycopg

from orchestrator.idempotency import IdempotencyStore, idempotent
from orchestrator.storage.database import create_engine
from orchestrator.storage.idempotency import PostgresIdempotencyStore

_telling = threading.Lock()


def tell(line: str) -> None:
    with _telling:
        print(line, flush=True)


def effect(url: str, key: str) -> int:
    """Do something outside, at once and for good; return the number of the effect."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        row = connection.execute(
            "INSERT INTO public.effect (key) VALUES (%s) RETURNING id", (key,)
        ).fetchone()
    assert row is not None
    return int(row[0])


def functions(store: IdempotencyStore, url: str, lease: float, *, hangs: bool) -> dict[str, Any]:
    def work(key: str) -> dict[str, int]:
        number = effect(url, key)
        tell("running")
        if hangs:
            sys.stdin.readline()
        return {"effect": number}

    @idempotent(store, scope="charge", wait_seconds=60, lease_seconds=lease)
    def charge(amount: str, idempotency_key: str) -> dict[str, int]:
        return work(idempotency_key)

    @idempotent(store, scope="estimate", wait_seconds=60, lease_seconds=lease, repeatable=True)
    def estimate(amount: str, idempotency_key: str) -> dict[str, int]:
        return work(idempotency_key)

    return {"charge": charge, "estimate": estimate}


def main(url: str, name: str, key: str, callers: str, lease: str, *more: str) -> None:
    store = PostgresIdempotencyStore(create_engine(url, pool_size=10))
    function = functions(store, url, float(lease), hangs="hangs" in more)[name]

    def call() -> None:
        try:
            answer: Any = function("12.30", key)
        except Exception as error:  # noqa: BLE001 - the answer
            answer = type(error).__name__
        tell(json.dumps(answer))

    threads = [threading.Thread(target=call) for _ in range(int(callers))]
    tell("ready")
    sys.stdin.readline()
    for each in threads:
        each.start()
    for each in threads:
        each.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
