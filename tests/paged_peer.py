"""A gateway that answers each question with the next answer of a list, right or broken."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

LOST = b"lost"
"""The connection breaks in the middle of the answer."""


@contextmanager
def paged_peer(answers: Sequence[bytes], *, headers: dict[str, str] | None = None) -> Iterator[str]:
    """Serve the answers in turn, the last one again and again; yield the base URL."""
    left = iter(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = next(left, answers[-1])
            self.send_response(200)
            for name, value in {"content-type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body) + (body == LOST)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def page(lines: object, following: object = None) -> bytes:
    """A page of the sandbox's report."""
    return json.dumps({"lines": lines, "next": following}).encode()


def told(order: str, at: str, **changes: Any) -> dict[str, Any]:
    """A line of the sandbox's report: a capture of one euro."""
    return {
        "at": at,
        "operation": "capture",
        "key": f"k-{order}",
        "reference": f"p-{order}",
        "payment_reference": f"p-{order}",
        "order_reference": order,
        "amount_minor": 100,
        "currency": "EUR",
        **changes,
    }
