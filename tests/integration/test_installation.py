"""Two installations never answer for each other, and a copy calls nobody until it is named."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from orchestrator.errors import InstallationError, PayloadError
from orchestrator.folding import replay
from orchestrator.keys import forward_key, installation_of
from orchestrator.storage import installation, migrate
from orchestrator.storage.database import Database, create_engine
from tests.histories import doing, saga
from tests.integration.engine import Engine, events
from tests.servers import INSTALLATION, Databases
from workers.local_servers.running_servers import RunningServers

SHOP = saga(doing("reserve"), doing("pay"))
BY = {"by": "ada", "because": "a test"}


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP)
    yield made
    made.close()


@pytest.fixture
def copied(engine: Engine, database: str, servers: RunningServers) -> Iterator[Engine]:
    """A copy of a shop with one saga that is half-way; as by a dump, nobody has decided on it."""
    started = engine.client.start("shop", {"amount": 1}, key="1001")
    engine.coordinator.execute(engine.claim(started.id))
    engine.pool.dispose()
    name = f"copy_of_{database.rpartition('/')[2]}"
    _run(servers, f"CREATE DATABASE {name} TEMPLATE {database.rpartition('/')[2]}")
    made = Engine(servers.postgres.url_of(name), SHOP)
    yield made
    made.close()
    _run(servers, f"DROP DATABASE {name} WITH (FORCE)")


def _run(servers: RunningServers, statement: str) -> None:
    url = servers.postgres.url_of("postgres").replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def forget(engine: Engine) -> None:
    """As after a minute: what is known of the installation is asked anew."""
    engine.coordinator.installation._row = None


def test_a_saga_bears_the_name_of_its_installation_and_so_do_its_keys(engine: Engine) -> None:
    started = engine.client.start("shop", {"amount": 1}, key="1001")
    claim = engine.claim(started.id)
    assert claim.state.installation == INSTALLATION
    assert engine.coordinator._context(claim, None).idempotency_key == forward_key(
        "shop", "1001", "reserve", installation=INSTALLATION
    )


def test_two_installations_have_no_key_in_common(engine: Engine, databases: Databases) -> None:
    other = Engine(databases.create(), SHOP)
    installation.name(other.pool, "us-shop")
    keys = []
    for each in (engine, other):
        claim = each.claim(each.client.start("shop", {"amount": 1}, key="1001").id)
        keys.append(each.coordinator._context(claim, None).idempotency_key)
    assert [installation_of(each) for each in keys] == [INSTALLATION, "us-shop"]
    other.close()


def test_a_copy_runs_nothing_and_says_why(copied: Engine) -> None:
    [saga_id] = [each.id for each in copied.client.find()]
    [attempt] = copied.coordinator.log.read(saga_id).attempts  # type: ignore[union-attr]
    before = copied.kinds(saga_id)
    with events() as heard:
        assert copied.coordinator.claim(attempt.id) is None
    assert copied.kinds(saga_id) == before
    [reason] = [fields["reason"] for event, fields in heard if event == "installation.undecided"]
    assert "amends installation keep" in reason


def test_a_restored_shop_that_is_kept_goes_on_under_its_old_keys(copied: Engine) -> None:
    [saga_id] = [each.id for each in copied.client.find()]
    installation.keep(copied.pool, **BY)
    assert copied.finish(saga_id) == "completed"
    assert replay(copied.coordinator.log.entries(saga_id)).installation == INSTALLATION


def test_a_copy_that_becomes_an_installation_closes_what_it_has_in_flight(copied: Engine) -> None:
    [saga_id] = [each.id for each in copied.client.find()]
    renewed = installation.renew(copied.pool, "staging", **BY)
    assert (renewed.name, renewed.closed) == ("staging", 1)
    assert copied.client.get(saga_id).state == "resolved"
    assert copied.attempts(saga_id) == []
    assert replay(copied.coordinator.log.entries(saga_id)).phase == "resolved"

    new = copied.client.start("shop", {"amount": 1}, key="1002")
    assert copied.finish(new.id) == "completed"
    assert replay(copied.coordinator.log.entries(new.id)).installation == "staging"


def test_what_ran_when_a_copy_was_made_is_closed_too_and_its_log_can_be_read(
    engine: Engine,
) -> None:
    started = engine.client.start("shop", {"amount": 1}, key="1001")
    engine.claim(started.id)
    installation.renew(engine.pool, "staging", **BY)
    kinds = ["SagaStarted", "StepStarted", "StepUnknown", "SagaResolved"]
    assert engine.kinds(started.id) == kinds
    [[seq]] = engine.sql("SELECT seq FROM amends.saga WHERE id = :id", id=started.id)
    folded = replay(engine.coordinator.log.entries(started.id))
    assert (folded.phase, folded.seq) == ("resolved", seq)


def test_what_a_copy_was_copied_with_is_not_moved_by_a_late_fact(
    engine: Engine, servers: RunningServers, database: str
) -> None:
    """Else an undo of the copy would take back what the original has sold."""
    started = engine.client.start("shop", {"amount": 1}, key="1001")
    assert engine.finish(started.id) == "completed"
    installation.renew(engine.pool, "staging", **BY)
    forget(engine)
    engine.coordinator.mover.look(started.id)
    with pytest.raises(InstallationError, match=f"copied from installation {INSTALLATION}"):
        engine.client.request_undo(started.id, reason="a test")
    assert engine.client.get(started.id).state == "completed"
    assert engine.attempts(started.id) == []


def test_a_worker_under_another_installations_name_runs_nothing(database: str) -> None:
    engine = Engine(database, SHOP, installation="staging")
    started = engine.client.start("shop", {"amount": 1}, key="1001")
    engine.work()
    assert engine.kinds(started.id) == ["SagaStarted"]
    assert "AMENDS_INSTALLATION" in (engine.coordinator.installation.trouble() or "")
    engine.close()


def test_what_runs_on_in_place_stops_once_the_installation_is_in_doubt(engine: Engine) -> None:
    started = engine.client.start("shop", {"amount": 1}, key="1001")
    claim = engine.claim(started.id)
    engine.sql("UPDATE amends.installation SET identity = 'elsewhere'")
    forget(engine)
    assert not engine.coordinator.installation.may_act()
    assert engine.coordinator.execute(claim, lambda _queue: True) is None
    assert engine.kinds(started.id) == ["SagaStarted", "StepStarted", "StepReleased"]


def test_the_name_is_asked_once_a_minute_and_after_every_new_connection(engine: Engine) -> None:
    known = engine.coordinator.installation
    assert known.may_act()
    engine.sql("UPDATE amends.installation SET identity = 'elsewhere'")
    assert known.may_act()
    engine.pool.dispose()
    engine.sql("SELECT 1")
    assert not known.may_act()


def test_an_installation_is_named_before_its_first_saga(engine: Engine) -> None:
    installation.name(engine.pool, "eu-shop")
    assert installation.read(Database(engine.pool)).name == "eu-shop"
    with pytest.raises(PayloadError, match="no name for an installation"):
        installation.name(engine.pool, "EU shop")
    engine.client.start("shop", {"amount": 1}, key="1001")
    installation.name(engine.pool, "eu-shop")
    with pytest.raises(InstallationError, match="before its first saga"):
        installation.name(engine.pool, "us-shop")


def test_a_schema_that_is_copied_before_its_first_saga_gets_a_name_of_its_own(
    engine: Engine, database: str, servers: RunningServers
) -> None:
    engine.pool.dispose()
    name = f"golden_{database.rpartition('/')[2]}"
    _run(servers, f"CREATE DATABASE {name} TEMPLATE {database.rpartition('/')[2]}")
    pool = create_engine(servers.postgres.url_of(name))
    migrate.upgrade(pool)
    found = installation.read(Database(pool))
    assert found.name != INSTALLATION
    assert found.is_at_home
    pool.dispose()
    _run(servers, f"DROP DATABASE {name} WITH (FORCE)")


def test_only_the_owner_decides(engine: Engine) -> None:
    for role in ("amends_client", "amends_worker", "amends_reader"):
        with engine.pool.connect() as connection:
            connection.exec_driver_sql(f"SET ROLE {role}")
            assert connection.exec_driver_sql(installation.READ).fetchall()
            with pytest.raises(Exception, match="permission denied"):
                connection.exec_driver_sql("UPDATE amends.installation SET name = 'mine'")
