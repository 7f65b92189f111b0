"""A proxy before Postgres that can lose an answer, fall silent, or hide backends as poolers do."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy.engine import make_url

_BACKEND_KEY = re.compile(rb"(?<=\x00)K\x00\x00[\x00\x01](?s:.)")
"""How Postgres begins to tell a new connection the pid of its backend."""


class CutConnections:
    """Passes everything on, until it is told to lose the answer to a statement with some text.

    `is_silent`: nothing is passed on any more, and no end is told: as a network that was cut.
    `hides_backends`: new connections are told another pid than their backend's, as by a pooler.
    """

    def __init__(self, host: str, port: int, listener: socket.socket) -> None:
        self._upstream = (host, port)
        self._listener = listener
        self._text: bytes | None = None
        self.cuts = 0
        self.is_silent = False
        self.hides_backends = False

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def lose_answer_to(self, text: str) -> None:
        """Cut the next connection that sends `text`, after the server has answered it."""
        self._text = text.encode()

    def serve(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        server = socket.create_connection(self._upstream)
        loses = threading.Event()
        threading.Thread(target=self._back, args=(server, client, loses), daemon=True).start()
        with suppress(OSError):
            while sent := client.recv(65536):
                if self._text is not None and self._text in sent:
                    self._text = None
                    loses.set()
                self._wait_while_silent()
                server.sendall(sent)
        _end(server)

    def _back(self, server: socket.socket, client: socket.socket, loses: threading.Event) -> None:
        with suppress(OSError):
            while answered := server.recv(65536):
                if loses.is_set():
                    self.cuts += 1
                    break
                self._wait_while_silent()
                client.sendall(self._disguised(answered) if self.hides_backends else answered)
        self._wait_while_silent()
        _end(client)

    def _wait_while_silent(self) -> None:
        while self.is_silent:
            threading.Event().wait(0.05)

    def _disguised(self, answered: bytes) -> bytes:
        found = _BACKEND_KEY.search(answered)
        if found is None:
            return answered
        pid = slice(found.end(), found.end() + 4)
        other = (int.from_bytes(answered[pid]) ^ 1).to_bytes(4)
        return answered[: pid.start] + other + answered[pid.stop :]


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextmanager
def cut_connections(url: str) -> Iterator[tuple[str, CutConnections]]:
    """Return a URL that leads to the same database through a proxy, and the proxy."""
    parsed = make_url(url)
    assert parsed.host is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = CutConnections(parsed.host, parsed.port or 5432, listener)
        threading.Thread(target=proxy.serve, daemon=True).start()
        through = parsed.set(host="127.0.0.1", port=proxy.port)
        yield through.render_as_string(hide_password=False), proxy
