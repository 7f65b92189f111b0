"""Calls that tests make to a sandbox, and peers that are none."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from steps.gateways.payment import ChargeRequest, ChargeResult
from steps.gateways.sandbox.client import SandboxGateway
from steps.gateways.sandbox.judge import SandboxJudge
from steps.money import Money

PRICE = Money.of("12.34", "EUR")
LONG = 10.0
SHORT = 0.6

T = TypeVar("T")


@contextmanager
def connected(base_url: str) -> Iterator[SandboxGateway]:
    gateway = SandboxGateway(base_url, timeout=timedelta(seconds=30))
    try:
        yield gateway
    finally:
        gateway.close()


def authorize(
    gateway: SandboxGateway, order: str, *, timeout_seconds: float = LONG
) -> ChargeResult:
    request = ChargeRequest(amount=PRICE, token="tok_ok", order_reference=order)
    return gateway.authorize(request, key=f"{order}:authorize", timeout_seconds=timeout_seconds)


def until(look: Callable[[], T | None], *, seconds: float = 10.0) -> T:
    """What `look` returns as soon as it is truthy."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (seen := look()):
        assert time.monotonic() < deadline, f"still {seen!r} after {seconds} s"
        pause.wait(0.02)
    return seen


def is_open(judge: SandboxJudge, order: str) -> bool:
    return any(row.order_reference == order for row in judge.open_requests())


@contextmanager
def scripted_peer(
    speak: Callable[[socket.socket], None], heard: list[bytes] | None = None
) -> Iterator[str]:
    """A peer that takes one connection, reads the request and then does what `speak` does."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            request = _whole_request(connection)
            if heard is not None:
                heard.append(request)
            speak(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def _whole_request(connection: socket.socket) -> bytes:
    request = b""
    while True:
        head, separator, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if separator and len(body) >= (int(length[1]) if length else 0):
            return request
        request += connection.recv(65536)
