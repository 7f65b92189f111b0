"""One saga at a time on one business thing: others queue in order, or are refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from orchestrator.client import NotStarted, Started
from orchestrator.definition import Busy, Lock
from orchestrator.errors import PayloadError, SagaLockedError
from orchestrator.seam import intercepted
from tests.histories import doing, saga
from tests.integration.engine import Engine


def cart(order: Any) -> str:
    return f"cart/{order.amount}"


QUEUED = saga(doing("pay"), name="queued", lock=Lock(on=cart))
REFUSED = saga(doing("pay"), name="refused", lock=Lock(on=cart, busy=Busy.REFUSE))
WRONG = saga(doing("pay"), name="wrong", lock=Lock(on=lambda _order: ""))


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = Engine(database, QUEUED, REFUSED, WRONG)
    yield made
    made.close()


def start(engine: Engine, key: str, name: str = "queued", amount: int = 1) -> UUID:
    return engine.client.start(name, {"amount": amount}, key=key).id


def states(engine: Engine) -> list[str]:
    rows = engine.sql("SELECT state FROM amends.saga ORDER BY created_at, id")
    return [row[0] for row in rows]


def test_the_first_begins_at_once_and_the_others_wait_in_order(engine: Engine) -> None:
    ids = [start(engine, str(number)) for number in range(3)]
    assert [each.saga_id for each in engine.bell.messages] == ids[:1]
    assert engine.coordinator.mover.look(ids[2]) == "waiting"
    order: list[UUID] = []
    while engine.bell.messages:
        order.append(engine.bell.messages[0].saga_id)
        engine.coordinator.execute(engine.claim(engine.bell.messages.popleft().saga_id))
    assert order == ids
    assert states(engine) == ["completed"] * 3
    assert engine.sql("SELECT * FROM amends.semantic_lock") == []


def test_other_things_are_not_waited_for(engine: Engine) -> None:
    start(engine, "a", amount=1)
    start(engine, "b", amount=2)
    assert len(engine.bell.messages) == 2


def test_a_saga_in_line_that_is_cancelled_leaves_the_line(engine: Engine) -> None:
    first, second, third = (start(engine, each) for each in "abc")
    engine.client.cancel(second, reason="no")
    assert engine.client.get(second).state == "compensated"
    engine.coordinator.execute(engine.claim(first))
    assert engine.finish(third) == "completed"


def test_the_next_one_begins_though_it_was_looked_at_while_the_one_before_ended(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = start(engine, "a"), start(engine, "b")
    holder = engine.claim(first)
    monkeypatch.setattr(engine.coordinator.mover, "pass_on", lambda _saga: None)
    ended: list[UUID] = []

    def interceptor(name: str, action: Callable[[], Any]) -> Any:
        if name == "decide.commit" and not ended:
            ended.append(first)
            engine.coordinator.execute(holder)
        return action()

    with intercepted(interceptor):
        engine.coordinator.mover.look(second)
    assert ended
    assert "SagaLockGranted" in engine.kinds(second)


def test_the_next_one_begins_though_nobody_was_told(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = start(engine, "a"), start(engine, "b")
    monkeypatch.setattr(engine.coordinator.mover, "pass_on", lambda _saga: None)
    engine.coordinator.execute(engine.claim(first))
    [(is_due,)] = engine.sql(
        "SELECT due_at <= clock_timestamp() FROM amends.saga WHERE id = :id", id=second
    )
    assert is_due
    assert engine.finish(second) == "completed"


def test_a_saga_that_may_not_queue_is_refused_and_nothing_is_written(engine: Engine) -> None:
    start(engine, "a", "refused")
    with pytest.raises(SagaLockedError, match="cart/1"):
        start(engine, "b", "refused")
    assert states(engine) == ["running"]


def test_a_repeated_start_is_the_same_saga_and_not_refused_by_itself(engine: Engine) -> None:
    first = start(engine, "a", "refused")
    again = engine.client.start("refused", {"amount": 1}, key="a")
    assert again == Started(id=first, key="a", created=False)


def test_a_refused_start_does_not_break_the_callers_transaction(engine: Engine) -> None:
    start(engine, "a", "refused")
    with Session(engine.pool) as session:
        with pytest.raises(SagaLockedError):
            engine.client.start("refused", {"amount": 1}, key="b", session=session)
        engine.client.start("refused", {"amount": 2}, key="c", session=session)
        session.commit()
    assert states(engine) == ["running"] * 2


def test_in_bulk_only_the_locked_ones_are_refused(engine: Engine) -> None:
    rows = [("a", {"amount": 1}), ("b", {"amount": 1}), ("c", {"amount": 2})]
    answers = list(engine.client.start_many("refused", rows))
    assert [type(each) for each in answers] == [Started, NotStarted, Started]
    assert isinstance(answers[1], NotStarted)
    assert isinstance(answers[1].error, SagaLockedError)


def test_of_many_starts_at_once_one_is_at_work(engine: Engine) -> None:
    threads = [threading.Thread(target=start, args=(engine, str(number))) for number in range(12)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    running = engine.sql("SELECT count(*) FROM amends.semantic_lock WHERE granted")
    assert running[0][0] <= 1
    for row in engine.sql("SELECT id FROM amends.saga ORDER BY created_at"):
        engine.coordinator.mover.look(row[0])
    while engine.bell.messages:
        engine.work()
        for row in engine.sql("SELECT id FROM amends.saga WHERE due_at IS NOT NULL"):
            engine.coordinator.mover.look(row[0])
    assert states(engine) == ["completed"] * 12


def test_a_lock_without_a_name_is_refused_at_the_door(engine: Engine) -> None:
    with pytest.raises(PayloadError, match="lock"):
        start(engine, "a", "wrong")
