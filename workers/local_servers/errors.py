"""What can go wrong with a local server; every error says what to do next."""

from collections.abc import Sequence
from pathlib import Path


class LocalServerError(Exception):
    """A local PostgreSQL or Valkey could not be found, started or stopped."""

    def __init__(self, message: str, *, server: str) -> None:
        super().__init__(message)
        self.server = server


class BinariesNotFoundError(LocalServerError):
    """No usable server program is installed; `fixes` are the ways out, best first."""

    def __init__(self, *, server: str, looked_in: Sequence[str], fixes: Sequence[str]) -> None:
        self.looked_in = tuple(looked_in)
        self.fixes = tuple(fixes)
        ways = "\n".join(f"  - {fix}" for fix in fixes)
        super().__init__(
            f"No {server} program found (looked in: {', '.join(looked_in)}). Do one of:\n{ways}",
            server=server,
        )


class ServerStartError(LocalServerError):
    """A server did not become ready; `log` is what it said last, `log_path` has the rest."""

    def __init__(self, reason: str, *, server: str, log_path: Path, log: str = "") -> None:
        self.reason = reason
        self.log_path = log_path
        self.log = log
        said = f"\n{log.strip()}" if log.strip() else ""
        super().__init__(f"{server} did not start: {reason}; see {log_path}{said}", server=server)


class ServerStopError(LocalServerError):
    """A server is still there after every signal; `pid` is the process to look at, if known."""

    def __init__(self, reason: str, *, server: str, pid: int | None) -> None:
        self.pid = pid
        super().__init__(f"{server} did not stop (pid {pid}): {reason}", server=server)


class StatementFailedError(LocalServerError):
    """An administrative statement was refused; `answer` is what the server said."""

    def __init__(self, *, server: str, answer: str) -> None:
        self.answer = answer
        super().__init__(f"{server} refused: {answer}", server=server)
