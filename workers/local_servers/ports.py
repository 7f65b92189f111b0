"""Free ports on the loopback address that stay free while a server restarts."""

import secrets
import socket

LOOPBACK = "127.0.0.1"
# Below the ports that systems hand out by themselves (Linux from 32768, macOS from 49152): from
# there an outgoing connection could take a server's port in the moment in which it restarts.
_RANGE = range(20_000, 32_000)


def free_port() -> int:
    """A port on which nobody listens now. The server's own bind decides; callers try again."""
    while True:
        port = secrets.choice(_RANGE)
        if is_free(port):
            return port


def is_free(port: int) -> bool:
    """Could a server listen on `port` now? Connections that linger in TIME_WAIT do not matter."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
