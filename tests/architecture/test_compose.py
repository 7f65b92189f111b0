"""compose.yaml and the Dockerfile name only commands, variables, ports and files that exist."""

import os
import re
import subprocess
import sys
import tomllib
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
import yaml
from starlette.routing import Route

from recovery.cli.program import amends as amends_command
from steps.gateways.sandbox.connections import Connections
from steps.gateways.sandbox.ledger import Ledger
from steps.gateways.sandbox.server import build_app
from workers.http.app import build_app as build_http
from workers.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load(re.sub(r"\$\{\w+:-(\w*)\}", r"\1", (ROOT / "compose.yaml").read_text()))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def each_of_ours() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", OURS)


def parse(name: str) -> click.Context:
    """The command that a service of ours would run: click refuses what it does not know."""
    program, *rest = OURS[name]["command"]
    assert program == "amends"
    context = amends_command.make_context(program, rest)
    while isinstance(context.command, click.Group):
        word, command, rest = context.command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert command is not None
        context = command.make_context(word, rest, parent=context)
    return context


def settings_of(name: str) -> Settings:
    environment: dict[str, str] = OURS[name]["environment"]
    return Settings.load(
        **{key.removeprefix(PREFIX).lower(): value for key, value in environment.items()}
    )


def seconds(duration: str) -> float:
    (number,) = re.findall(r"^(\d+)s$", duration)
    return timedelta(seconds=int(number)).total_seconds()


def test_the_services_of_a_whole_deployment_are_there() -> None:
    assert SERVICES.keys() == {"postgres", "redis", "migrate", "sandbox", "worker", "http", "beat"}
    assert OURS.keys() == SERVICES.keys() - {"postgres", "redis"}


@pytest.mark.parametrize("name", [each for each in OURS if each != "beat"])
def test_a_service_runs_a_command_with_options_that_exist(name: str) -> None:
    assert parse(name).command.callback is not None


def test_beat_is_celerys_own_command_on_our_app() -> None:
    # With --help it loads the app and refuses unknown options, but does not start.
    done = subprocess.run(
        [sys.executable, "-m", *OURS["beat"]["command"], "--help"],
        cwd=ROOT,
        env=os.environ | OURS["beat"]["environment"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert "beat [OPTIONS]" in done.stdout, done.stderr


@each_of_ours()
def test_every_variable_is_a_setting(name: str) -> None:
    known = {PREFIX + field.upper() for field in Settings.model_fields}

    assert OURS[name]["environment"].keys() <= known
    assert settings_of(name).require_database_url()


def test_every_url_leads_to_a_service_and_the_port_it_listens_on() -> None:
    settings = settings_of("worker")
    sandbox = parse("sandbox").params
    ports = {"postgres": 5432, "redis": 6379, "sandbox": sandbox["port"]}

    for url in (settings.database_url, settings.broker_url, settings.gateway_url):
        parts = urlsplit(url or "")
        assert ports[str(parts.hostname)] == parts.port


def test_the_sandbox_is_checked_and_published_where_it_listens(tmp_path: Path) -> None:
    sandbox = parse("sandbox").params
    asked = OURS["sandbox"]["healthcheck"]["test"][-1]
    ((port, path),) = re.findall(r"127\.0\.0\.1:(\d+)(/\w+)'", asked)
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        app = build_app(ledger, Connections(), base_url="", logs=False)

    assert sandbox["host"] == "0.0.0.0"  # noqa: S104 - inside the network of the composition
    assert int(port) == sandbox["port"]
    assert path in {route.path for route in app.routes if isinstance(route, Route)}
    assert OURS["sandbox"]["ports"] == [f"127.0.0.1:{sandbox['port']}:{sandbox['port']}"]


def test_the_http_edge_is_checked_and_published_where_it_listens() -> None:
    edge = parse("http").params
    asked = OURS["http"]["healthcheck"]["test"][-1]
    ((port, path),) = re.findall(r"127\.0\.0\.1:(\d+)(/\w+)'", asked)

    assert edge["host"] == "0.0.0.0"  # noqa: S104 - inside the network of the composition
    assert int(port) == edge["port"]
    assert path in build_http(settings_of("http")).openapi()["paths"]
    assert OURS["http"]["ports"] == [f"127.0.0.1:{edge['port']}:{edge['port']}"]


def test_the_database_url_opens_the_database_that_postgres_makes() -> None:
    parts = urlsplit(settings_of("worker").database_url or "")
    made = SERVICES["postgres"]["environment"]

    assert (parts.username, parts.password) == (made["POSTGRES_USER"], made["POSTGRES_PASSWORD"])
    assert parts.path == f"/{made['POSTGRES_DB']}"


def test_a_service_waits_only_for_what_can_be_told() -> None:
    for service in SERVICES.values():
        for other, wait in service.get("depends_on", {}).items():
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]
            else:
                assert wait["condition"] == "service_completed_successfully"
                assert SERVICES[other]["restart"] != "unless-stopped"


def test_a_worker_is_killed_only_after_its_own_grace() -> None:
    grace = settings_of("worker").grace_seconds

    assert seconds(OURS["worker"]["stop_grace_period"]) > grace + 10
    assert seconds(OURS["http"]["stop_grace_period"]) > grace + 10


def test_named_volumes_are_declared() -> None:
    used = {
        volume.partition(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
    }

    assert used == COMPOSE["volumes"].keys()


def test_the_image_runs_as_nobody_in_particular_and_stops_on_sigterm() -> None:
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]

    assert re.search(r"^USER (?!0\b|root\b)\d+:\d+$", last_stage, re.MULTILINE)
    assert "\nSTOPSIGNAL SIGTERM\n" in last_stage
    assert '\nENTRYPOINT ["tini", "--"]\n' in last_stage


def test_the_image_holds_every_package_and_only_hashed_dependencies() -> None:
    copied = {
        source.rstrip("/")
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for source in sources.split()
    }
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}

    packages = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    needed = {"pyproject.toml", "requirements/image.txt", *PROJECT["project"]["license-files"]}
    readme = {PROJECT["project"]["readme"]} if "readme" in PROJECT["project"] else set()

    assert copied == packages | needed | readme
    assert sent == copied
    assert all((ROOT / source).exists() for source in copied)
    installs = re.findall(r"^RUN .*pip install (.+)$", DOCKERFILE, re.MULTILINE)
    assert installs == [
        "--require-hashes -r requirements/image.txt",
        "--no-deps --no-build-isolation .",
    ]


def test_the_image_runs_a_python_that_the_project_supports() -> None:
    (minor,) = set(re.findall(r"^FROM python:3\.(\d+)-slim", DOCKERFILE, re.MULTILINE))

    assert f"Programming Language :: Python :: 3.{minor}" in PROJECT["project"]["classifiers"]
