"""An endpoint for the sandbox's webhooks: ``python -m … [MOMENT ACTION]``; prints its URL.

It keeps, answers and processes, as any endpoint does. With MOMENT (before, after) and ACTION, a
durable one of the inbox, it dies there as by `kill -9`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TypeVar

from orchestrator.client import SagaClient
from orchestrator.seam import intercepted
from orchestrator.storage.database import Database
from workers.bootstrap import build_doorbell, build_engine, definitions, webhook_inbox
from workers.settings import Settings

T = TypeVar("T")


def main() -> None:
    if len(sys.argv) == 1:
        serve(processes=False)
        return
    moment, deadly = sys.argv[1:]

    def interceptor(name: str, action: Callable[[], T]) -> T:
        if name == deadly and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = action()
        if name == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    with intercepted(interceptor):
        serve(processes=True)


def serve(*, processes: bool) -> None:
    settings = Settings.load()
    engine = build_engine(settings, pool_size=2)
    client = SagaClient(engine, build_doorbell(settings), definitions=definitions(settings))
    inbox = webhook_inbox(settings, database=Database(engine), client=client)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            inbox.receive("sandbox", dict(self.headers), body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()
            self.wfile.flush()
            if processes:
                inbox.process_due()

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        print(f"listening at http://127.0.0.1:{server.server_address[1]}/webhooks", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
