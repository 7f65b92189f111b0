"""Processes that all send the same signals at once: ``python -m … COUNT SAGA NAME KEY…``.

Each prints a line for every signal that was new to the engine.
"""

from __future__ import annotations

import os
import sys

from orchestrator.client import SagaClient
from workers import connect


def main() -> None:
    count, definition, name, *keys = sys.argv[1:]
    client = connect()  # opens nothing yet
    children = [_child(client, definition, name, keys) for _ in range(int(count))]
    codes = [os.waitpid(each, 0)[1] for each in children]
    sys.exit(any(codes))


def _child(client: SagaClient, definition: str, name: str, keys: list[str]) -> int:
    process = os.fork()
    if process == 0:
        code = 1
        try:
            for key in keys:
                if client.signal((definition, key), name, {"for": key}, dedup_id="one"):
                    os.write(1, f"new {key}\n".encode())
            code = 0
        finally:
            os._exit(code)
    return process


if __name__ == "__main__":
    main()
