"""The sandbox's client and its process: calls with a hard end, and no process left behind."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from orchestrator.seam import intercepted
from steps.gateways.errors import GatewayServerError, GatewayTimeoutError
from steps.gateways.sandbox.client import SandboxGateway
from steps.gateways.sandbox.judge import SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess, SandboxStartError
from tests.integration.gateways.calls import (
    LONG,
    SHORT,
    authorize,
    connected,
    scripted_peer,
    until,
)

T = TypeVar("T")


# The client.


def test_every_call_runs_through_the_durable_seam(gateway: SandboxGateway, order: str) -> None:
    names: list[str] = []

    def record(name: str, action: Callable[[], T]) -> T:
        names.append(name)
        return action()

    with intercepted(record):
        payment = authorize(gateway, order)
        gateway.void(payment.reference, key=f"{order}:void", timeout_seconds=LONG)
        gateway.find(reference=payment.reference, timeout_seconds=LONG)

    assert names == ["gateway.authorize", "gateway.void", "gateway.find"]


def test_a_forked_child_never_shares_a_connection(sandbox: SandboxProcess, order: str) -> None:
    script = """
import os, sys
from tests.integration.gateways.calls import *
gateway = SandboxGateway(sys.argv[1], timeout=timedelta(seconds=30))
authorize(gateway, sys.argv[2])
child = os.fork()
name = "child" if child == 0 else "parent"
for number in range(100):
    order = f"{sys.argv[2]}-{name}-{number}"
    assert authorize(gateway, order).order_reference == order
if child:
    assert os.waitpid(child, 0)[1] == 0
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script, sandbox.base_url, order], check=False)

    assert done.returncode == 0


def test_many_threads_share_one_client(gateway: SandboxGateway, order: str) -> None:
    orders = [f"{order}-{number}" for number in range(200)]

    with ThreadPoolExecutor(16) as callers:
        answers = list(callers.map(lambda each: authorize(gateway, each), orders))

    assert [answer.order_reference for answer in answers] == orders


def test_an_answer_that_trickles_in_is_given_up_at_the_deadline() -> None:
    given_up = threading.Event()

    def trickle(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not given_up.wait(0.05):
            connection.send(b" ")

    with scripted_peer(trickle) as base_url, connected(base_url) as gateway:
        started = time.monotonic()
        with pytest.raises(GatewayTimeoutError):
            authorize(gateway, "order", timeout_seconds=0.4)
        given_up.set()

    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhtml",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nhtml",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_an_answer_that_is_not_the_gateways_is_unknown(answer: bytes) -> None:
    with (
        scripted_peer(lambda connection: connection.sendall(answer)) as base_url,
        connected(base_url) as gateway,
        pytest.raises(GatewayServerError),
    ):
        authorize(gateway, "order")


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nConte",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nhtml",
    ],
)
def test_a_broken_connection_is_unknown(garbage: bytes) -> None:
    with (
        scripted_peer(lambda connection: connection.sendall(garbage)) as base_url,
        connected(base_url) as gateway,
        pytest.raises(GatewayTimeoutError),
    ):
        authorize(gateway, "order")


@pytest.mark.parametrize("base_url", ["file:///etc/passwd", "ftp://gateway", "gateway:80", ""])
def test_only_http_urls_are_gateways(base_url: str) -> None:
    with pytest.raises(ValueError, match="gateway's URL"):
        SandboxGateway(base_url, timeout=timedelta(seconds=1))


# The process.


def test_it_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from steps.gateways.sandbox.process import SandboxProcess\n"
        "sandbox = SandboxProcess.start(Path(sys.argv[1]))\n"
        "print(sandbox.pid, flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "ledger.db")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    starter.kill()
    starter.wait()
    starter.stdout.close()

    until(lambda: not psutil.pid_exists(pid))


def test_it_stops_though_requests_are_held(tmp_path: Path) -> None:
    sandbox = SandboxProcess.start(tmp_path / "ledger.db")
    with SandboxJudge(sandbox.base_url) as judge, connected(sandbox.base_url) as gateway:
        judge.script("hold_before")
        with pytest.raises(GatewayTimeoutError):
            authorize(gateway, "order", timeout_seconds=SHORT)

    sandbox.stop()

    assert not sandbox.is_running


def test_its_log_holds_no_token(tmp_path: Path) -> None:
    log = tmp_path / "sandbox.log"
    with (
        SandboxProcess.start(tmp_path / "ledger.db", log=log) as sandbox,
        connected(sandbox.base_url) as gateway,
    ):
        authorize(gateway, "order")

    (line,) = log.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["event"] == "sandbox.request_answered"
    assert "tok_ok" not in line


def test_a_taken_port_is_a_clear_error(sandbox: SandboxProcess, tmp_path: Path) -> None:
    with pytest.raises(SandboxStartError, match="in use"):
        SandboxProcess.start(tmp_path / "ledger.db", port=sandbox.port)
