"""The server killed, its database away, its broker away, and the end that it is asked for."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest
import redis
import sqlalchemy

from orchestrator.storage.database import create_engine
from tests.http_edge import NO_BROKER, HttpEdge, order, problem, serving, waits_for_lock
from tests.integration.engine import read_only
from tests.integration.http.test_webhook_endpoint import event
from tests.servers import Databases
from tests.worker_processes import until
from workers.local_servers.running_servers import RunningServers


def post_or_nothing(edge: HttpEdge, number: int) -> httpx2.Response | None:
    try:
        return edge.post(order(f"K-{number}"), f'"request-{number}"')
    except httpx2.HTTPError:
        return None


def test_a_server_killed_among_requests_leaves_one_saga_each(database: str, tmp_path: Path) -> None:
    numbers, told = range(100), dict[int, httpx2.Response]()
    with serving(database, tmp_path) as edge, ThreadPoolExecutor(8) as pool:
        asked = {pool.submit(post_or_nothing, edge, number): number for number in numbers}
        for done in as_completed(asked):
            answer = done.result()
            if answer is not None:
                told[asked[done]] = answer
            if len(told) == 5:
                edge.member.kill()
        assert {each.status_code for each in told.values()} == {201}
        assert len(told) < len(numbers), "the kill came after the last request"

    with serving(database, tmp_path) as edge:
        print(f"\nmeasured: {len(told)} answered before the kill, {edge.sagas()} sagas started")
        for number in numbers:
            answer = edge.post(order(f"K-{number}"), f'"request-{number}"')
            assert answer.status_code == 201, answer.text
            assert number not in told or answer.text == told[number].text
        assert edge.sagas() == len(numbers)
        assert edge.sql("SELECT count(DISTINCT key) FROM amends.saga") == [(len(numbers),)]


def test_a_server_killed_before_the_commit_leaves_nothing(database: str, tmp_path: Path) -> None:
    body = order("B-1")
    with (
        serving(database, tmp_path) as edge,
        ThreadPoolExecutor(1) as pool,
        edge.engine.connect() as blocker,
    ):
        blocker.execute(sqlalchemy.text("LOCK TABLE amends.saga_log IN EXCLUSIVE MODE"))
        lost = pool.submit(edge.post, body)
        until(lambda: waits_for_lock(edge), what="a start that waits")
        edge.member.kill()
        assert isinstance(lost.exception(), httpx2.HTTPError)
        blocker.rollback()
    with serving(database, tmp_path) as edge:
        until(lambda: edge.post(body).status_code == 201, what="an answer")
        assert edge.sagas() == 1


@contextmanager
def deaf_broker() -> Iterator[str]:
    """A broker that takes connections and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        yield f"redis://127.0.0.1:{deaf.getsockname()[1]}/0"


def test_a_server_killed_between_commit_and_answer_answers_the_same(
    database: str, tmp_path: Path
) -> None:
    """The ring comes after the commit and before the answer; this one is never taken."""
    body = order("C-1")
    with (
        deaf_broker() as url,
        serving(database, tmp_path, broker_url=url) as edge,
        ThreadPoolExecutor(1) as pool,
    ):
        lost = pool.submit(edge.post, body)
        until(lambda: edge.sagas() == 1, what="a committed saga")
        assert not lost.done()
        edge.member.kill()
        assert isinstance(lost.exception(), httpx2.HTTPError)
    with serving(database, tmp_path) as edge:
        answer = edge.post(body)

        assert answer.status_code == 201
        assert answer.json()["created"]
        assert edge.sql("SELECT id::text FROM amends.saga") == [(answer.json()["id"],)]


def test_without_its_database_a_server_says_so_and_comes_back(
    database: str, servers: RunningServers, tmp_path: Path
) -> None:
    body, delivery = order("D-1"), event()
    with serving(database, tmp_path) as edge:
        place = edge.post(order("D-0"), "earlier").headers["location"]
        servers.postgres.stop()
        edge.engine.dispose()
        answers = [
            edge.post(body, "a"),
            edge.http.get(place),
            edge.deliver(delivery),
            edge.http.get("/readyz"),
        ]
        alive = edge.http.get("/healthz")
        servers.postgres.start()

        for answer in answers:
            problem(answer, 503, "database_unavailable")
            assert int(answer.headers["retry-after"]) > 0
        assert alive.status_code == 200
        until(lambda: edge.http.get("/readyz").status_code == 200, what="readiness")
        assert (edge.sagas(), edge.webhooks()) == (1, 0)
        assert edge.post(body, "a").status_code == 201
        assert edge.deliver(delivery).json() == {"is_first": True}


def test_a_server_that_became_a_standby_is_left_for_the_new_primary(
    database: str, tmp_path: Path
) -> None:
    """What it answers is no fault of ours, and its connections are not kept for another try."""
    body = order("S-1")
    with serving(database, tmp_path) as edge:
        with read_only(database):
            edge.engine.dispose()
            for _ in range(3):
                problem(edge.post(body, "a"), 503, "database_unavailable")

        assert edge.post(body, "a").status_code == 201


def test_without_a_broker_sagas_start(database: str, tmp_path: Path) -> None:
    with serving(database, tmp_path, broker_url=NO_BROKER) as edge:
        assert edge.post(order()).status_code == 201
        assert edge.http.get("/readyz").json() == {"status": "degraded", "broker": "unreachable"}
        until(lambda: edge.member.events("doorbell.failed"), what="a line about the broker")


def test_with_a_broker_a_start_rings(database: str, broker_url: str, tmp_path: Path) -> None:
    with serving(database, tmp_path, broker_url=broker_url) as edge:
        assert edge.http.get("/readyz").json() == {"status": "ready", "broker": "answers"}
        assert edge.post(order()).status_code == 201
        with redis.Redis.from_url(broker_url) as broker:
            assert broker.keys("amends:amends*"), "no message is in the queue"
        assert not edge.member.events("doorbell.failed")


def test_a_database_that_was_not_migrated_is_not_ready(
    databases: Databases, servers: RunningServers, tmp_path: Path
) -> None:
    url = servers.postgres.create_database(f"bare_{uuid4().hex[:8]}")
    with serving(url, tmp_path) as edge:
        problem(edge.http.get("/readyz"), 503, "not_ready")
        problem(edge.post(order()), 503, "not_ready")
        problem(edge.deliver(event()), 503, "not_ready")
        assert edge.http.get("/healthz").status_code == 200
    databases.drop(url)


def test_a_newer_schema_does_not_stop_an_older_server(database: str, tmp_path: Path) -> None:
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE amends.schema_version SET version_num = '9999'"))
    engine.dispose()
    with serving(database, tmp_path) as edge:
        assert edge.http.get("/readyz").status_code == 200


def test_sigterm_answers_what_runs_and_exits_with_0(database: str, tmp_path: Path) -> None:
    with serving(database, tmp_path) as edge, ThreadPoolExecutor(1) as pool:
        with edge.engine.connect() as blocker:
            blocker.execute(sqlalchemy.text("LOCK TABLE amends.saga IN EXCLUSIVE MODE"))
            running = pool.submit(edge.post, order())
            until(lambda: waits_for_lock(edge), what="a start that waits")
            edge.member.terminate()
            until(lambda: "Shutting down" in edge.member.log, what="the shutdown")
            with pytest.raises(httpx2.ConnectError):
                httpx2.get(f"{edge.url}/healthz")
            blocker.rollback()

        assert running.result().status_code == 201
        assert edge.member.wait_end() == 0
        assert "Traceback" not in edge.member.log


def test_without_tokens_nobody_gets_in(database: str, tmp_path: Path) -> None:
    with serving(database, tmp_path, http_tokens="") as edge:
        problem(edge.post(order()), 401, "not_authenticated")
        assert "AMENDS_HTTP_TOKENS" in edge.member.log
        assert edge.http.get("/healthz").status_code == 200


def test_a_client_of_the_least_rights_is_enough(database: str, tmp_path: Path) -> None:
    """Its webhooks are kept; only who may change rows processes them."""
    name = f"web_{uuid4().hex[:8]}"
    owner = create_engine(database)
    with owner.begin() as connection:
        connection.execute(
            sqlalchemy.text(f"CREATE USER {name} PASSWORD 'web' IN ROLE amends_client")
        )
    mine = owner.url.set(drivername="postgresql", username=name, password="web")
    try:
        with serving(mine.render_as_string(hide_password=False), tmp_path) as edge:
            assert edge.post(order()).status_code == 201
            assert edge.post(order()).status_code == 201
            place = edge.post(order(), "another").headers["location"]
            assert edge.http.get(place).status_code == 200
            assert edge.http.get("/readyz").status_code == 200
            assert edge.deliver(event()).status_code == 200
            until(lambda: edge.member.events("http.processing_failed"), what="a line")
            assert edge.deliver(event()).status_code == 200
    finally:
        with owner.begin() as connection:
            connection.execute(sqlalchemy.text(f"DROP USER {name}"))
        owner.dispose()
