"""Where the two servers of a directory are, and the order in which they end."""

from pathlib import Path

from workers.local_servers.postgres import Postgres
from workers.local_servers.valkey import Valkey

POSTGRES = Path("postgres")
VALKEY = Path("valkey")


def stop_pair(postgres: Postgres, valkey: Valkey) -> None:
    """Return when neither server runs any more; PostgreSQL ends first.

    Raises:
        ServerStopError: one could not be stopped; the other has been all the same.
    """
    try:
        postgres.stop()
    finally:
        valkey.stop()
