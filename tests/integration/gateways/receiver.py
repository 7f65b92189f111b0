"""Somebody who is told by webhooks."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One request that a receiver got."""

    header: str
    body: bytes
    at: float

    @property
    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.body)
        return told


@dataclass(slots=True)
class Receiver:
    """An HTTP server that writes down what it is told, and answers as scripted, then with 200."""

    url: str = ""
    heard: list[Heard] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    def types_of(self, order: str) -> list[str]:
        return [each.told["type"] for each in self.heard if order in each.body.decode()]

    def until(self, look: Callable[[], T | None], *, seconds: float = 10.0) -> T:
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while not (seen := look()):
            assert time.monotonic() < deadline, f"heard {[each.told for each in self.heard]}"
            pause.wait(0.02)
        return seen

    def hears(self, order: str, *types: str) -> None:
        """Wait until exactly these were told of an order, in whatever order."""
        self.until(lambda: sorted(self.types_of(order)) == sorted(types))


@contextmanager
def listening() -> Iterator[Receiver]:
    """A receiver that listens while the block runs."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            header = self.headers["sandbox-signature"] or self.headers["stripe-signature"]
            receiver.heard.append(Heard(header=header, body=body, at=time.monotonic()))
            self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
        yield receiver
        server.shutdown()
        thread.join()
