"""Repairing what was written into a log beside the engine: void it, and the saga goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from orchestrator.definitions import Definitions
from orchestrator.entries import EntriesVoided, OperatorActed
from orchestrator.state import State
from orchestrator.storage.database import Database
from orchestrator.storage.histories import Histories
from recovery.cli.program import amends
from recovery.invariants.evidence import Evidence
from recovery.invariants.history import check_histories
from recovery.operator.operator import Operator
from recovery.operator.refusals import MovedOnError, RefusedError
from recovery.operator.verbs import By, Retry
from tests.integration.engine import Engine
from tests.integration.test_one_sagas_trouble import FORGED, SHOP, due, forge, parked, sweep

ADA = By(actor="ada", reason="somebody's script wrote it")
Run = Callable[..., Result]


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, SHOP, lease=timedelta(seconds=0.3))
    yield made
    made.close()


@pytest.fixture
def operator(engine: Engine) -> Operator:
    return Operator(engine.coordinator, engine.client)


def victim_of(engine: Engine, kind: str, values: Any, ahead: int = 1) -> UUID:
    """A saga that was set aside because of a forged entry."""
    saga_id = engine.client.start("shop", {"amount": 1}, key="victim").id
    engine.bell.messages.clear()
    forge(engine, saga_id, kind, values, ahead)
    due(engine)
    sweep(engine)
    assert parked(engine, saga_id)[1] == "unreadable"
    return saga_id


@pytest.mark.parametrize("kind", FORGED)
@pytest.mark.parametrize("ahead", [1, 3])
def test_without_the_forged_entry_the_saga_goes_on(
    engine: Engine, operator: Operator, kind: str, ahead: int
) -> None:
    victim = victim_of(engine, kind, FORGED[kind], ahead)
    damaged = operator.diagnosis(victim).damaged
    assert [(each.seq, each.kind, each.says) for each in damaged] == [
        (1 + ahead, kind, FORGED[kind])
    ]
    assert operator.repair(victim, [1 + ahead], ADA) is State.RUNNING
    assert engine.finish(victim) == "completed"
    [history] = Histories(Database(engine.pool)).all()
    found = check_histories(Evidence(sagas=[history]), Definitions([SHOP]), at_rest=True)
    assert {each.invariant for each in found} <= ({"log is gapless"} if ahead > 1 else set())
    written = [each for each in engine.entries(victim) if isinstance(each, EntriesVoided)]
    assert written == [EntriesVoided(seqs=[1 + ahead], actor="ada", reason=ADA.reason)]
    [acted] = [each for each in engine.entries(victim) if isinstance(each, OperatorActed)]
    assert (acted.verb, acted.data) == ("repair", [1 + ahead])


def test_an_outcome_that_cannot_be_read_is_unknown_again_and_settled(
    engine: Engine, operator: Operator
) -> None:
    """A damaged row in the middle: its attempt is open again, and done again under its key."""
    saga_id = engine.client.start("shop", {"amount": 1}, key="victim").id
    claim = engine.claim(saga_id)
    forge(engine, saga_id, "StepSucceeded", {"step": "pay", "direction": "forward"})
    engine.sql("UPDATE amends.saga SET seq = seq + 1")
    engine.sql("DELETE FROM amends.attempt")
    due(engine)
    sweep(engine)
    assert [each.seq for each in operator.diagnosis(saga_id).damaged] == [claim.saga.seq + 1]
    operator.repair(saga_id, [claim.saga.seq + 1], ADA)
    assert engine.finish(saga_id) == "completed"
    assert "StepUnknown" in engine.kinds(saga_id)


def test_who_voids_what_can_be_read_has_only_a_word_and_the_saga_ends_as_resolved(
    engine: Engine, operator: Operator
) -> None:
    """Else a charge could be voided out of the log, and its saga called compensated."""
    saga_id = engine.client.start("shop", {"amount": 1}, key="victim").id
    engine.coordinator.execute(engine.claim(saga_id))
    assert engine.kinds(saga_id) == ["SagaStarted", "StepStarted", "StepSucceeded"]
    forge(engine, saga_id, "SagaCompleted", {})
    assert operator.repair(saga_id, [2, 3, 4], ADA) is State.RUNNING
    engine.client.cancel(saga_id, reason="no", actor="ada")
    assert engine.finish(saga_id) == "resolved"


def test_what_is_not_written_yet_cannot_be_voided(engine: Engine, operator: Operator) -> None:
    victim = victim_of(engine, "SagaCompleted", {})
    before = engine.kinds(victim)
    with pytest.raises(RefusedError, match="has no entry 9 yet"):
        operator.repair(victim, [2, 9], ADA)
    assert engine.kinds(victim) == before


def test_what_was_not_set_aside_yet_is_repaired_too(engine: Engine, operator: Operator) -> None:
    saga_id = engine.client.start("shop", {"amount": 1}, key="victim").id
    forge(engine, saga_id, "SagaCompleted", {})
    assert operator.repair(saga_id, [2], ADA) is State.RUNNING
    assert engine.finish(saga_id) == "completed"


def test_a_repair_is_refused_where_it_would_not_help(engine: Engine, operator: Operator) -> None:
    healthy = engine.client.start("shop", {"amount": 1}, key="healthy").id
    victim = victim_of(engine, "SagaCompleted", {})
    seq = engine.client.get(victim).seq
    with pytest.raises(RefusedError, match="can be read"):
        operator.repair(healthy, [1], ADA)
    with pytest.raises(RefusedError, match="cannot be read either"):
        operator.repair(victim, [99], ADA)
    with pytest.raises(MovedOnError):
        operator.repair(victim, [2], ADA, seen=seq - 1)
    assert engine.client.get(victim).seq == seq
    assert operator.repair(victim, [2], ADA, seen=seq) is State.RUNNING


def test_nothing_else_makes_a_saga_go_on_that_was_written_beside_the_engine(
    engine: Engine, operator: Operator
) -> None:
    victim = victim_of(engine, "CancelRequested", {"reason": "mine", "actor": "mallory"})
    with pytest.raises(RefusedError, match="amends repair"):
        operator.act(victim, Retry(), ADA)
    with pytest.raises(RefusedError, match="beside the engine"):
        operator.repair(victim, [3], ADA)
    operator.repair(victim, [2], ADA)
    assert engine.finish(victim) == "completed"


def test_a_first_entry_that_is_damaged_leaves_closing_only(
    engine: Engine, operator: Operator
) -> None:
    saga_id = engine.client.start("shop", {"amount": 1}, key="victim").id
    engine.sql("ALTER TABLE amends.saga_log DISABLE TRIGGER ALL")
    engine.sql('UPDATE amends.saga_log SET data = \'{"skipped": 7, "payload": 1}\'')
    due(engine)
    sweep(engine)
    found = operator.diagnosis(saga_id)
    assert ([each.seq for each in found.damaged], found.state) == ([1], None)
    assert operator.close_unreadable(saga_id, ADA) is State.RESOLVED
    assert engine.client.get(saga_id).is_terminal
    with pytest.raises(RefusedError, match="has ended"):
        operator.close_unreadable(saga_id, ADA)


# -- on the command line ---------------------------------------------------------------------------


@pytest.fixture
def run(database: str) -> Run:
    def invoke(*arguments: str) -> Result:
        environment = {
            "AMENDS_DATABASE_URL": database,
            "AMENDS_SAGAS": "tests.integration.test_one_sagas_trouble",
        }
        return CliRunner().invoke(amends, arguments, env=environment)

    return invoke


def test_the_command_line_leads_from_the_list_to_a_saga_that_goes_on(
    engine: Engine, run: Run
) -> None:
    victim = victim_of(engine, "SagaCompleted", {})
    listed = json.loads(run("list", "--needs-attention", "--json").stdout)
    assert (listed["why"], listed["next"]) == ("unreadable", f"amends repair {victim}")
    page = run("show", "victim")
    assert page.exit_code == 0, page.stderr
    assert f"amends repair {victim}" in page.stdout
    told = run("repair", "victim")
    assert told.exit_code == 0, told.stderr
    assert "2  SagaCompleted" in told.stdout
    command = next(each for each in told.stdout.splitlines() if "--void 2" in each)
    assert run("repair", "victim", "--void", "2").exit_code == 2
    done = run(*command.split()[1:5], "--reason", "a script")
    assert done.exit_code == 0, done.stderr
    assert "it is running" in done.stdout
    assert engine.finish(victim) == "completed"
    assert "void: 2" in run("show", "victim").stdout
