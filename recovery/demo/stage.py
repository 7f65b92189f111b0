"""Everything the demo needs to run, started in parallel and ended without a rest."""

from __future__ import annotations

import hashlib
import os
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2
import redis

from orchestrator.client import SagaClient
from orchestrator.definitions import Definitions
from orchestrator.storage import migrate
from orchestrator.storage.database import Database
from orchestrator.storage.processes import Processes
from orchestrator.storage.reads import Reads
from orchestrator.storage.saga_log import SagaLog
from recovery.demo.children import Child
from recovery.isolation import child_environment
from recovery.reconciliation.storage.schema import RECONCILIATION_SCHEMA
from steps.gateways.sandbox.judge import SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from steps.storage import stock
from steps.storage.schema import SHOP_SCHEMA
from workers import bootstrap
from workers.local_servers.ports import LOOPBACK, free_port
from workers.local_servers.running_servers import RunningServers, start
from workers.settings import Settings
from workers.worker import worker_argv

WORKERS = 2
THREADS = 4
START_SECONDS = 60.0
RUN_SECONDS = 60.0
BESIDE = ("gateway", "PostgreSQL", "Valkey", "watchdog")
"""The processes that are no children of the stage."""
HTTP = "http"
WEBHOOK_SECRET = "whsec-of-the-demo"  # noqa: S105 - both ends of it are on this stage
ALERTS = "alerts.txt"
LEASH = "recovery.demo.leashed"
WORKER = "worker-"
SPILLING = "recovery.demo.scenarios.spilling"
"""A saga of the scenarios, which spills card numbers."""
BLOCKED_DOMAIN = "blocked.example"
"""Whose mailboxes the demo's shop sells nothing to."""


class DemoError(Exception):
    """The demo could not go on; the message says what was missing."""


@dataclass
class Stage:
    """The running cast: servers, gateway, workers, and a client's view on them.

    `processes` are the names of all that ever ran; each has a log.
    """

    settings: Settings
    directory: Path
    engine: Any
    client: SagaClient
    definitions: Definitions
    gateway: SandboxProcess
    judge: SandboxJudge
    servers: RunningServers
    http_url: str
    http_token: str = field(repr=False)
    children: list[Child] = field(default_factory=list)
    processes: set[str] = field(default_factory=lambda: set(BESIDE))

    @property
    def alerts(self) -> Path:
        """Where alerts are kept, as JSON, once there are any."""
        return self.directory / ALERTS

    @property
    def reads(self) -> Reads:
        return Reads(Database(self.engine))

    @property
    def log(self) -> SagaLog:
        return SagaLog(Database(self.engine))

    @property
    def workers(self) -> list[Child]:
        """The workers that live."""
        return [each for each in self.living if each.name.startswith(WORKER)]

    @property
    def living(self) -> list[Child]:
        """The children that were neither killed nor have ended."""
        return [each for each in self.children if each.is_running]

    def start_worker(self) -> Child:
        """Start one more worker process; it takes a second or two to be ready."""
        number = sum(each.name.startswith(WORKER) for each in self.children) + 1
        name = f"{WORKER}{number}"
        _, _, *celery = worker_argv(self.settings, name=f"{name}@%h", extra=("--loglevel", "info"))
        return self._start(name, *celery)

    def start_sweeper(self) -> Child:
        """Start the process that sweeps; the workers here do not."""
        return self._start("sweeper", "amends", "sweep")

    def start_server(self) -> Child:
        """Start the HTTP edge, where sagas are started and webhooks arrive."""
        host, port = self.http_url.removeprefix("http://").split(":")
        return self._start(HTTP, "amends", "serve", "--host", host, "--port", port)

    @property
    def webhook_url(self) -> str:
        """Where the gateway delivers."""
        return f"{self.http_url}/webhooks/sandbox"

    def run(self, name: str, *program: str, **environment: str) -> int | None:
        """Run a program to its end and return its exit code; its output is in its log."""
        child = self._child(name, *program, **environment)
        try:
            wait_for(lambda: not child.is_running, RUN_SECONDS)
            return child.exit_code
        finally:
            child.end()

    def wait_until_ready(self) -> None:
        """Return when every living child has said so.

        Raises:
            DemoError: one ended, or they took too long; the message has its log's last lines.
        """

        def are_there() -> bool:
            for each in self.children:
                if not (each.is_running or each.was_killed):
                    raise DemoError(f"{each.name} ended at once: {self._last_words(each)}")
            seen = Processes(Database(self.engine)).all()
            parts = {part for row in seen for part in row.process.owner.split("/")}
            return all(
                self._serves() if each.name == HTTP else str(each.pid) in parts
                for each in self.living
            )

        if not wait_for(are_there, START_SECONDS):
            logs = "; ".join(self._last_words(each) for each in self.living)
            raise DemoError(f"not all are ready after {START_SECONDS:g} s: {logs}")

    def stop_children(self) -> None:
        """End every process that was started here, all at once."""
        for each in self.children:
            each.ask_to_end()
        for each in self.children:
            each.end()

    def _serves(self) -> bool:
        """Whether the HTTP edge says that it is ready; it is in no register."""
        try:
            answer = httpx2.get(f"{self.http_url}/readyz", timeout=2, trust_env=False)
        except httpx2.HTTPError:
            return False
        return answer.status_code == HTTPStatus.OK

    def _start(self, name: str, *program: str) -> Child:
        child = self._child(name, *program)
        self.children.append(child)
        return child

    def _child(self, name: str, *program: str, **environment: str) -> Child:
        self.processes.add(name)
        return Child(
            name,
            ["-m", LEASH, *program],
            directory=self.directory,
            environment=_environment(self.settings) | environment,
        )

    def _last_words(self, child: Child) -> str:
        text = (self.directory / f"{child.name}.log").read_text(errors="replace")
        return " | ".join(text.strip().splitlines()[-5:])


@contextmanager
def open_stage(*, lease_seconds: float, sweep_seconds: float) -> Iterator[Stage]:
    """Start servers and gateway, migrate, and leave nothing behind, however the block ends.

    The servers are the demo's own, in a directory that is removed with them: whatever the
    environment names is left alone. They do not sync to disk, which survives every crash but the
    machine's.
    """
    directory = Path(tempfile.mkdtemp(prefix="amends-demo-"))
    with ExitStack() as stack, ThreadPoolExecutor(1) as starting:
        gateway = starting.submit(
            SandboxProcess.start, directory / "ledger.sqlite", log=directory / "gateway.log"
        )
        try:
            servers = start(
                directory,
                durable=False,
                watchdog=True,
                ephemeral=True,
                postgres_settings={"log_error_verbosity": "terse"},  # it repeats whole rows else
            )
            stack.enter_context(servers)
        finally:
            stack.enter_context(gateway.result())
        _keep_no_messages(servers.broker_url)
        http_token = secrets.token_urlsafe()
        settings = _settings(
            servers,
            gateway.result().base_url,
            http_token=http_token,
            alerts=directory / ALERTS,
            lease_seconds=lease_seconds,
            sweep=sweep_seconds,
        )
        engine = bootstrap.build_engine(settings, pool_size=2, name="amends demo")
        stack.callback(engine.dispose)
        migrate.upgrade(engine)
        migrate.upgrade(engine, SHOP_SCHEMA)
        migrate.upgrade(engine, RECONCILIATION_SCHEMA)
        stock.restock(engine, "cd", 10_000)
        definitions = bootstrap.definitions(settings)
        stage = Stage(
            settings=settings,
            directory=directory,
            engine=engine,
            client=SagaClient(engine, bootstrap.build_doorbell(settings), definitions=definitions),
            definitions=definitions,
            gateway=gateway.result(),
            judge=stack.enter_context(SandboxJudge(gateway.result().base_url)),
            servers=servers,
            http_url=f"http://{LOOPBACK}:{free_port()}",
            http_token=http_token,
        )
        stack.callback(stage.stop_children)
        yield stage


def _keep_no_messages(broker_url: str) -> None:
    """Have the broker write nothing to disk, as a deployment's should."""
    with redis.Redis.from_url(broker_url) as valkey:
        valkey.config_set("appendonly", "no")


def wait_for(condition: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    """Look until `condition` holds; False when the time is up first."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(pause)
    return True


def _settings(
    servers: RunningServers,
    gateway_url: str,
    *,
    http_token: str,
    alerts: Path,
    lease_seconds: float,
    sweep: float,
) -> Settings:
    """Every choice that matters here is made here, whatever the environment says."""
    return Settings.load(
        database_url=servers.database_url,
        broker_url=servers.broker_url,
        broker_profile="fast",
        sagas=(SPILLING,),
        fraud_blocklist=(f"@{BLOCKED_DOMAIN}",),
        queues=(),
        gateway_url=gateway_url,
        carrier_url=gateway_url,
        gateway_timeout_seconds=10.0,
        lease_seconds=lease_seconds,
        sweep_seconds=sweep,
        pool="threads",
        concurrency=THREADS,
        hand_off="inline",
        key_prefix="amends:",
        log_format="json",
        log_level="info",
        grace_seconds=3.0,
        workers_sweep=False,
        sandbox_webhook_secrets=WEBHOOK_SECRET,
        http_tokens=f"demo={hashlib.sha256(http_token.encode()).hexdigest()}",
        alert_command=("tee", "-a", str(alerts)),
    )


def _environment(settings: Settings) -> dict[str, str]:
    known = ("DATABASE_URL", "CELERY_BROKER_URL", "REDIS_URL", "DATABASE_URL_FILE")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AMENDS_") and name not in known
    }
    names = (
        *("database_url", "broker_url", "broker_profile", "gateway_url", "carrier_url"),
        *("gateway_timeout_seconds", "lease_seconds", "sweep_seconds", "pool", "concurrency"),
        *("hand_off", "key_prefix", "log_format", "log_level", "grace_seconds", "workers_sweep"),
        *("sandbox_webhook_secrets", "http_tokens"),
    )
    chosen = {f"AMENDS_{name.upper()}": str(getattr(settings, name)) for name in names}
    chosen |= {
        "AMENDS_SAGAS": ",".join(settings.sagas),
        "AMENDS_ALERT_COMMAND": shlex.join(settings.alert_command),
        "AMENDS_FRAUD_BLOCKLIST": ",".join(settings.fraud_blocklist),
    }
    return child_environment(kept | chosen)
