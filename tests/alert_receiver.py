"""Who alerts are for: a real HTTP server that believes only what is signed with its secret."""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from standardwebhooks import Webhook, WebhookVerificationError

SECRET = "whsec_" + base64.b64encode(b"a secret of 32 bytes, for tests.").decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"another secret that has 32 bytes").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request: who it says it is, what it says, and how it was answered."""

    id: str
    path: str
    body: dict[str, Any]
    is_genuine: bool
    answered: int

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = self.body["data"]
        return found


class Receiver:
    """Serves on the loopback address; a context manager.

    `status` is what every call is answered with, `hangs` lets none be answered until it is set.
    """

    def __init__(self, port: int = 0, *, status: int = 200, secret: str = SECRET) -> None:
        self.status = status
        self.calls: list[Call] = []
        self.open_calls = 0
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._webhook = Webhook(secret)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._take(self)

            def do_GET(self) -> None:
                receiver._take(self)

            def log_message(self, *_: object) -> None:
                """The test says what it wants to know."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/alerts"

    def taken(self) -> list[Call]:
        """The calls that were answered as taken."""
        return [each for each in self.calls if each.answered == 200]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def _take(self, request: BaseHTTPRequestHandler) -> None:
        text = request.rfile.read(int(request.headers.get("content-length", "0"))).decode()
        self.open_calls += 1
        if not self.may_answer.wait(60):
            return
        call = Call(
            id=request.headers.get("webhook-id", ""),
            path=request.path,
            body=json.loads(text or "{}"),
            is_genuine=self._is_genuine(text, dict(request.headers)),
            answered=self.status,
        )
        self.calls.append(call)
        try:
            request.send_response(call.answered)
            request.send_header("location", "/elsewhere")
            request.send_header("content-length", "0")
            request.end_headers()
        except OSError:
            return  # the sender did not wait for it

    def _is_genuine(self, text: str, headers: dict[str, str]) -> bool:
        try:
            self._webhook.verify(text, headers)
        except WebhookVerificationError:
            return False
        return True
