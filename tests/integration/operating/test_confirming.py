"""Two persons and a word that nobody can look up: who they are, and what races them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy

from orchestrator.context import CannotTell, Found, Standing
from orchestrator.entries import EvidenceConfirmed, SagaResolved
from orchestrator.errors import StateConflictError
from orchestrator.seam import intercepted
from orchestrator.state import State
from orchestrator.storage.database import Database
from orchestrator.storage.operators import OPERATORS
from recovery.operator import authenticating
from recovery.operator.authenticating import authenticated
from recovery.operator.identity import Identity, IdentityKind
from recovery.operator.operator import Operator
from recovery.operator.refusals import MovedOnError, RefusedError
from recovery.operator.verbs import Abandon, By, Confirm, MarkDone, Retry, Withdraw
from tests.integration.engine import Engine
from tests.integration.operating.world import (
    ADA,
    BOB,
    World,
    by_both,
    everything,
    start,
    undone,
    unknown,
)
from tests.operators import person

TRANSFER = MarkDone(step="pay", reference="transfer-9")
CAROL = person("carol", "me too")


@pytest.fixture
def world() -> World:
    return World(under=CannotTell("the bank is closed"))


def test_a_word_changes_nothing_and_of_both_ends_as_resolved(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = undone(engine, world)
    said = operator.act(saga_id, TRANSFER, ADA)
    assert said.state is State.FAILED_COMPENSATION
    assert said.assertion is not None
    assert said.assertion.why == "the bank is closed"
    assert engine.client.get(saga_id).state is State.FAILED_COMPENSATION
    done = operator.act(saga_id, Confirm(), BOB)
    assert done.state is State.RESOLVED
    found = engine.client.get(saga_id)
    assert (found.state, found.due_at) == (State.RESOLVED, None)
    ended = engine.entries(saga_id)[-1]
    assert isinstance(ended, SagaResolved)
    assert ended.actor == "os_user:ada and os_user:bob"


def test_of_many_who_confirm_at_once_one_does(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = undone(engine, world)
    operator.act(saga_id, TRANSFER, ADA)
    ready, came = threading.Barrier(4), []

    def confirm(by: By) -> None:
        ready.wait()
        try:
            operator.act(saga_id, Confirm(), by)
            came.append("confirmed")
        except (MovedOnError, RefusedError):
            came.append("refused")

    threads = [threading.Thread(target=confirm, args=(by,)) for by in (BOB, CAROL, ADA, BOB)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(came) == ["confirmed", *["refused"] * 3]
    kinds = [type(each) for each in engine.entries(saga_id)]
    assert kinds.count(EvidenceConfirmed) == 1


@pytest.mark.parametrize("between", [Withdraw(), Retry()], ids=["withdrawn", "retried"])
def test_what_happens_between_looking_and_confirming_wins(
    engine: Engine, operator: Operator, world: World, between: Any
) -> None:
    saga_id = undone(engine, world)
    operator.act(saga_id, TRANSFER, ADA)
    overtaken: list[Any] = []

    def interceptor(name: str, action: Callable[[], Any]) -> Any:
        if name == "decide.commit" and not overtaken:
            overtaken.append(True)
            operator.act(saga_id, between, ADA)
            overtaken.append(everything(engine))
        return action()

    with intercepted(interceptor), pytest.raises(MovedOnError):
        operator.act(saga_id, Confirm(), BOB)
    assert everything(engine) == overtaken[1]
    with pytest.raises(RefusedError, match="nothing waits for a second person"):
        operator.act(saga_id, Confirm(), BOB)


def test_what_proves_false_before_it_is_confirmed_is_refused(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = undone(engine, world)
    operator.act(saga_id, TRANSFER, ADA)
    before = everything(engine)
    world.under = Found(theirs=Standing(status="captured"), ours=Standing(status="refunded"))
    with pytest.raises(RefusedError, match="there: captured; by the saga: refunded"):
        operator.act(saga_id, Confirm(), BOB)
    assert everything(engine) == before


def test_a_program_does_not_close_a_saga_over_money(engine: Engine, world: World) -> None:
    saga_id = undone(engine, world)
    before = everything(engine)
    with pytest.raises(StateConflictError, match="leaves money open"):
        engine.client.abandon(saga_id, reason="enough", actor="script")
    assert everything(engine) == before


def test_a_program_does_not_close_a_saga_over_an_unknown(engine: Engine, world: World) -> None:
    saga_id = unknown(engine, world)
    before = everything(engine)
    with pytest.raises(StateConflictError, match=r"nobody knows of \(pay\)"):
        engine.client.abandon(saga_id, reason="enough", actor="script")
    assert everything(engine) == before


def test_without_money_and_unknowns_one_person_closes_a_saga(
    engine: Engine, operator: Operator
) -> None:
    saga_id = start(engine)
    assert operator.act(saga_id, Abandon(), ADA).state is State.RESOLVED


# -- who they are ----------------------------------------------------------------------------------


@pytest.fixture
def roles(engine: Engine) -> Iterator[Callable[..., Database]]:
    """Connections of roles of their own; roles are the server's, so they go again."""
    pools: list[sqlalchemy.Engine] = []
    made: list[str] = []

    def role(name: str, *, operates: bool) -> Database:
        engine.sql(f"CREATE ROLE {name} LOGIN PASSWORD 'pw' IN ROLE amends_worker")
        made.append(name)
        if operates:
            engine.sql(f"GRANT {OPERATORS} TO {name}")
        pools.append(sqlalchemy.create_engine(engine.pool.url.set(username=name, password="pw")))
        return Database(pools[-1])

    engine.sql(f"CREATE ROLE {OPERATORS} NOLOGIN")
    made.append(OPERATORS)
    yield role
    for pool in pools:
        pool.dispose()
    for name in reversed(made):
        engine.sql(f"DROP ROLE {name}")


def test_a_role_of_ones_own_is_who_one_is_whatever_the_role_that_is_set(
    engine: Engine, roles: Callable[..., Database]
) -> None:
    ada = roles("ada_o", operates=True)
    assert authenticated(ada) == Identity(kind=IdentityKind.DATABASE_ROLE, name="ada_o")
    sqlalchemy.event.listen(ada.engine, "checkout", _as_worker)
    assert authenticated(ada).name == "ada_o"


def test_where_operators_have_roles_nobody_else_is_a_person(
    engine: Engine, roles: Callable[..., Database]
) -> None:
    roles("ada_o", operates=True)
    shared = roles("app_o", operates=False)
    assert authenticated(shared).kind is IdentityKind.SHARED_ROLE
    assert not authenticated(Database(engine.pool)).is_personal  # nor a superuser


def test_without_such_roles_it_is_the_user_whatever_the_environment_says(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = authenticated(Database(engine.pool))
    assert known.kind is IdentityKind.OS_USER
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "mallory")
    assert authenticated(Database(engine.pool)) == known


def test_who_logged_in_is_known_behind_sudo(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    login = tmp_path / "loginuid"
    monkeypatch.setattr(authenticating, "LOGIN_UID", login)
    login.write_text("1")  # daemon, on every Unix
    assert authenticated(Database(engine.pool)).name == "daemon"
    login.write_text(str(2**32 - 1))
    assert authenticated(Database(engine.pool)).name != "daemon"


def test_two_roles_are_two_persons_and_one_role_is_one(
    engine: Engine, world: World, roles: Callable[..., Database]
) -> None:
    saga_id = undone(engine, world)
    ada, bob = roles("ada_o", operates=True), roles("bob_o", operates=True)

    def desk(database: Database) -> Operator:
        return Operator(engine.coordinator, engine.client, lambda: authenticated(database))

    def by(name: str) -> By:
        return By(actor=name, reason="seen")

    desk(ada).act(saga_id, TRANSFER, by("ada"))
    with pytest.raises(RefusedError, match="the same person"):
        desk(ada).act(saga_id, Confirm(), by("bob"))
    assert desk(bob).act(saga_id, Confirm(), by("ada")).state is State.RESOLVED


def _as_worker(connection: Any, _record: Any, _proxy: Any) -> None:
    connection.execute("SET ROLE amends_worker")
    connection.commit()


def test_both_are_named_wherever_it_is_told(
    engine: Engine, operator: Operator, world: World
) -> None:
    saga_id = undone(engine, world)
    by_both(operator, saga_id, TRANSFER)
    told = str(engine.entries(saga_id))
    assert "os_user:ada" in told
    assert "os_user:bob" in told
