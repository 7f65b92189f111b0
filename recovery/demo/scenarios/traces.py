"""Everything that a deployment has written anywhere, as text to be searched."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import redis

from recovery.demo.scenarios.planted import readable
from recovery.demo.scenarios.storage.rows import every_row
from recovery.demo.stage import Stage
from workers.local_servers.pair import POSTGRES, VALKEY

_SERVERS: Final = {POSTGRES: "PostgreSQL", VALKEY: "Valkey"}


def tables(stage: Stage) -> dict[str, str]:
    """Return the text of every table of the database."""
    found: dict[str, list[str]] = {}
    for table, row in every_row(stage.engine):
        found.setdefault(table, []).append(readable(row))
    return {table: "\n".join(rows) for table, rows in found.items()}


def broker(stage: Stage) -> dict[str, str]:
    """Return every value that Valkey holds, the bodies of messages decoded."""
    with redis.Redis.from_url(stage.servers.broker_url) as valkey:
        return {_text(key): "\n".join(_values(valkey, key)) for key in valkey.scan_iter()}


def is_queue_empty(stage: Stage) -> bool:
    """Return whether every message has been taken."""
    with redis.Redis.from_url(stage.servers.broker_url) as valkey:
        return not valkey.llen(f"{stage.settings.key_prefix}amends")


def logs(stage: Stage) -> dict[str, str]:
    """Return the log of every process of the deployment, by the process's name."""
    found = {each.stem: _read(each) for each in stage.directory.glob("*.log")}
    servers = {
        name: _read(stage.directory / directory / "server.log")
        for directory, name in _SERVERS.items()
    }
    return found | servers


def ledger(stage: Stage) -> dict[str, str]:
    """Return the bytes of the gateway's books, by the name of the file."""
    found = stage.directory.glob(f"{stage.gateway.ledger.name}*")
    return {each.name: each.read_bytes().decode("latin-1") for each in found}


def files(stage: Stage) -> dict[str, str]:
    """Return every file of the deployment: logs, ledger, and the servers' own, as Latin-1.

    The servers' files hold what no query shows any more: dead rows, and the write-ahead log.
    """
    found = {}
    for path in stage.directory.rglob("*"):
        try:
            if path.is_file():
                found[str(path.relative_to(stage.directory))] = path.read_bytes().decode("latin-1")
        except FileNotFoundError:
            continue  # a server's, removed meanwhile
    return found


def _values(valkey: redis.Redis, key: bytes) -> Iterator[str]:
    match valkey.type(key):
        case b"list":
            yield from map(_text, valkey.lrange(key, 0, -1))
        case b"hash":
            yield from map(_text, valkey.hgetall(key).values())
        case b"set":
            yield from map(_text, valkey.smembers(key))
        case b"zset":
            yield from map(_text, valkey.zrange(key, 0, -1))
        case _:
            yield _text(valkey.get(key))


def _text(value: Any) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    try:
        body = json.loads(text)["body"]
        return text + base64.b64decode(body).decode(errors="replace")
    except (ValueError, KeyError, TypeError):
        return text


def _read(path: Path) -> str:
    return path.read_text(errors="replace")
