"""``make advice``: for every reason to be parked, what is recommended is done, and the saga ends.

A saga parks, the world is healed, and an operator types what ``amends list --needs-attention``
prints, and nothing else; of several answers to a question the first that is true. Printed is a line
for each case: what was typed, the end, and whether the other side agrees with it. A reason that the
code names and no case has is a failure, and so is a saga that does not end as it should.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from orchestrator.definition import SagaDefinition
from orchestrator.storage import migrate
from orchestrator.storage.database import create_engine
from orchestrator.storage.operators import OPERATORS
from tests.advice import sagas
from tests.advice.bank import BANK
from tests.advice.desk import FIRST, PASSWORD, SAGAS, SECOND, Desk, wait_for
from tests.advice.reasons import reasons
from tests.advice.scenarios import SCENARIOS, Scenario
from tests.integration.engine import Engine
from tests.servers import Databases, scratch
from workers.local_servers.running_servers import start

MAX_COMMANDS = 6
"""So many commands may be needed: more is no help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one case; `why` is empty when it ended as it should."""

    scenario: Scenario
    first: str
    typed: str
    end: str
    exit_codes: str
    why: str
    seconds: float


def main() -> int:
    verdicts: list[Verdict] = []
    with _databases() as databases:
        for each in SCENARIOS:
            url = databases.create()
            verdicts.append(judged(each, url))
            print(_line(verdicts[-1]), flush=True)
            databases.drop(url)
    missing = {name: at for name, at in reasons().items() if name not in _covered()}
    for name, at in missing.items():
        print(f"NO CASE   {name}  ({at}): add one to tests/advice/scenarios.py")
    failed = sum(bool(each.why) for each in verdicts)
    print(
        f"{len(verdicts)} cases of {len(reasons())} reasons: {len(verdicts) - failed} ended as "
        f"they should, {failed} did not; {len(missing)} reasons without a case"
    )
    return 1 if failed or missing or not verdicts else 0


def judged(scenario: Scenario, url: str) -> Verdict:
    """Park a saga, heal the world, do what is recommended, and judge its end."""
    began = time.monotonic()
    BANK.__init__()  # type: ignore[misc]  # as new: the definitions hold this very one
    engine, desk = Engine(url, *_definitions()), Desk(url)
    first = why = end = ""
    try:
        saga_id = scenario.parks(engine)
        assert _reason(engine, saga_id) == scenario.reason, f"parked: {_reason(engine, saga_id)}"
        BANK.heal()
        if scenario.is_unknown_here:
            desk.sagas = ""
        if scenario.is_by_persons:
            _have_roles(engine)
            desk.role = FIRST
        first = desk.next_of(saga_id)
        _ends(engine, desk, saga_id)
        end = engine.client.get(saga_id).state.value
        why = _disagreement(scenario, end)
    except AssertionError as error:
        why = str(error).splitlines()[0] if str(error) else "an assertion failed"
    finally:
        if scenario.is_by_persons:
            _have_no_roles(engine)
        engine.close()
    return Verdict(
        scenario=scenario,
        first=" ".join(first.split()[1:2]),
        typed=" ".join(each.verb for each in desk.followed),
        end=end,
        exit_codes=" ".join(str(each.exit_code) for each in desk.followed),
        why=why,
        seconds=time.monotonic() - began,
    )


def _ends(engine: Engine, desk: Desk, saga_id: UUID) -> None:
    """Type what is printed until the saga has ended."""
    asked = saga_id
    for _ in range(MAX_COMMANDS):
        if engine.client.get(asked).is_parked:
            asked = _answer(engine, desk, asked) or asked
        if engine.finish(asked) in ("completed", "compensated", "resolved"):
            if asked == saga_id:
                return
            asked = saga_id  # a child has ended, and its parent goes on
            engine.finish(saga_id)
            if engine.client.get(saga_id).is_terminal:
                return
    raise AssertionError(f"still {engine.client.get(saga_id).state} after {MAX_COMMANDS} commands")


def _answer(engine: Engine, desk: Desk, saga_id: UUID) -> UUID | None:
    """Type the first command that is right; return the saga that it leads to, if another."""
    printed = desk.next_of(saga_id)
    advice = desk.advice_of(saga_id)
    assert advice[0]["command"] == printed, "list and show recommend the same"
    chosen = next(each for each in advice if _is_true(engine, saga_id, each["command"]))
    wait_for(chosen["possible_from"])
    verb = desk.follow(chosen["command"], _reference(engine, saga_id))
    if verb == "check-deploy":
        desk.sagas = SAGAS  # it named what is missing
        return None
    if verb == "show":
        return UUID(chosen["command"].split()[2])
    assert desk.followed[-1].exit_code == 0, f"{chosen['command']} was refused"
    return None


def _is_true(engine: Engine, saga_id: UUID, command: str) -> bool:
    """Whether what a command says of the other side is so."""
    took_effect = _reference(engine, saga_id) is not None
    if " mark-done " in command:
        return took_effect
    return not (" mark-not-done " in command and took_effect)


def _reference(engine: Engine, saga_id: UUID) -> str | None:
    """What the other side shows of what is asked about: the payment, its refund, the letter."""
    state = engine.client.get(saga_id).state.value
    step = engine.client.get(saga_id).step
    operation = "refund" if state == "failed_compensation" else step or "pay"
    done = BANK.done(operation)
    return done[-1] if done else None


def _disagreement(scenario: Scenario, end: str) -> str:
    if end != scenario.ends:
        return f"it should end {scenario.ends}"
    kept = len(BANK.done("pay")) - len(BANK.done("refund"))
    wanted = {"completed": 1, "compensated": 0}.get(end, kept)
    return "" if kept == wanted else f"the bank has {kept} payments that were not given back"


def _have_roles(engine: Engine) -> None:
    """Let operators have roles of their own, in the whole cluster."""
    engine.sql(f"CREATE ROLE {OPERATORS} NOLOGIN")
    for each in (FIRST, SECOND):
        engine.sql(
            f"CREATE ROLE {each} LOGIN PASSWORD '{PASSWORD}' IN ROLE {OPERATORS}, amends_worker"
        )


def _have_no_roles(engine: Engine) -> None:
    engine.sql(f"DROP ROLE IF EXISTS {FIRST}, {SECOND}, {OPERATORS}")


def _reason(engine: Engine, saga_id: UUID) -> str:
    [(reason,)] = engine.sql(
        "SELECT data->>'reason' FROM amends.saga_log WHERE saga_id = :id AND kind = 'SagaParked' "
        "ORDER BY seq DESC LIMIT 1",
        id=saga_id,
    ) or [("none",)]
    return str(reason)


def _covered() -> set[str]:
    return {each.reason for each in SCENARIOS}


def _definitions() -> Sequence[SagaDefinition[Any]]:
    return [each for each in vars(sagas).values() if isinstance(each, SagaDefinition)]


def _line(verdict: Verdict) -> str:
    scenario = verdict.scenario
    told = "ends" if not verdict.why else "FAILED"
    return (
        f"{told:<7} {scenario.reason:<23} {scenario.case:<62} first: {verdict.first:<14} "
        f"typed: {verdict.typed:<28} exit: {verdict.exit_codes:<6} end: {verdict.end:<11} "
        f"{verdict.seconds:4.1f} s  {verdict.why}"
    ).rstrip()


@contextmanager
def _databases() -> Iterator[Databases]:
    with start(scratch("amends-advice-"), durable=False, watchdog=True, ephemeral=True) as servers:
        yield Databases(servers.postgres, _migrated)


def _migrated(url: str) -> None:
    engine = create_engine(url)
    migrate.upgrade(engine)
    engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
