"""Processes that start sagas at once: ``python -m … PROCESSES SAGA EACH NUMBERS``.

Each starts so many, one after the other, under keys like ``process-place``; their payloads' numbers
go round.
"""

from __future__ import annotations

import os
import sys

from orchestrator.client import SagaClient
from workers import connect


def main() -> None:
    definition = sys.argv[2]
    processes, each, numbers = (int(sys.argv[place]) for place in (1, 3, 4))
    client = connect()  # opens nothing yet
    children = [_child(client, definition, name, each, numbers) for name in range(processes)]
    codes = [os.waitpid(process, 0)[1] for process in children]
    sys.exit(any(codes))


def _child(client: SagaClient, definition: str, name: int, each: int, numbers: int) -> int:
    process = os.fork()
    if process == 0:
        code = 1
        try:
            for place in range(each):
                payload = {"number": place % numbers, "slow_ms": 3}
                client.start(definition, payload, key=f"{name}-{place}")
            code = 0
        finally:
            os._exit(code)
    return process


if __name__ == "__main__":
    main()
