"""Looking at a saga over HTTP: what is shown, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from uuid import uuid4

import pytest
from pydantic import BaseModel, Field

from orchestrator.context import Effect, Movement
from orchestrator.definition import SagaDefinition, step
from orchestrator.errors import Terminal
from tests.http_edge import HttpEdge, order, problem
from tests.integration.engine import Engine
from tests.integration.operating.world import ONCE


def test_a_saga_is_shown_without_its_secret_fields(edge: HttpEdge) -> None:
    body = order("shown-1", payer={"email": "ada@example.org"})
    place = edge.post(body, str(uuid4())).headers["location"]

    answer = edge.http.get(place)

    assert answer.status_code == 200
    told = answer.json()
    assert (told["definition"], told["version"], told["key"]) == ("checkout", 1, "shown-1")
    assert (told["state"], told["is_terminal"], told["is_parked"]) == ("running", False, False)
    assert told["links"]["self"] == place
    assert told["attributes"] == {"order_id": "shown-1", "customer_id": "C-7"}
    assert told["payload"]["units"] == 1
    assert (told["payload"]["payment_method"], told["payload"]["payer"]) == ("***", "***")
    assert "tok_ok" not in answer.text
    assert "ada@" not in answer.text
    (attempt,) = told["attempts"]
    assert (attempt["step"], attempt["number"]) == ("reserve_inventory", 1)
    assert (attempt["direction"], attempt["is_running"]) == ("forward", False)


class Purchase(BaseModel):
    secret_note: str = Field("keep me", repr=False)
    size: int = 1


def _taken(_: object) -> Effect:
    money = Movement(kind="capture", amount_minor=700, currency="EUR", reference="pay_1")
    return Effect(value="taken", reference="pay_1", movements=[money])


def _no_route(_: object) -> None:
    raise Terminal("the carrier does not go there", code="no_route")


def _refused(_: object) -> None:
    raise Terminal("the bank says no", code="refund_refused")


def _broken(_: object) -> None:
    raise RuntimeError("no route to db7.internal")


def purchase(name: str, undo: Callable[[object], None]) -> SagaDefinition[Purchase]:
    """It takes money, cannot ship, and cannot give the money back."""
    return SagaDefinition(
        name=name,
        version=1,
        payload=Purchase,
        steps=[
            step("pay", _taken, compensation=undo, undo_retry=ONCE),
            step("ship", _no_route, pivot=True),
        ],
    )


@pytest.mark.parametrize(
    ("undo", "code", "message"),
    [(_refused, "refund_refused", "the bank says no"), (_broken, "unnamed", None)],
    ids=["in the step's words", "in nobody's words"],
)
def test_a_parked_saga_tells_its_money_and_its_error(
    edge: HttpEdge, undo: Callable[[object], None], code: str, message: str | None
) -> None:
    definition = purchase(f"purchase{undo.__name__}", undo)
    engine = Engine(edge.engine.url.render_as_string(hide_password=False), definition)
    with closing(engine):
        started = engine.client.start(definition, Purchase(size=2), key="P-1")
        assert engine.finish(started.id) == "failed_compensation"

    answer = edge.http.get(f"/sagas/{started.id}")

    told = answer.json()
    assert (told["state"], told["is_parked"]) == ("failed_compensation", True)
    assert told["parked_because"] == "compensation_exhausted"
    assert told["money_at_risk"] == {"EUR": {"held_minor": 0, "captured_minor": 700}}
    (movement,) = told["movements"]
    assert (movement["kind"], movement["amount_minor"]) == ("capture", 700)
    error = told["last_error"]
    assert (error["step"], error["direction"]) == ("pay", "compensate")
    assert (error["code"], error["message"]) == (code, message)
    assert "db7" not in answer.text
    # This server has no such definition, so it cannot tell which of its fields are secret.
    assert told["payload"] == {"secret_note": "***", "size": "***"}


def test_a_saga_that_is_not_there_is_a_problem(edge: HttpEdge) -> None:
    problem(edge.http.get(f"/sagas/{uuid4()}"), 404, "saga_not_found")


@pytest.mark.parametrize("path", ["/sagas/7", "/sagas/4242424242424242"])
def test_what_is_no_id_is_refused_and_not_repeated(edge: HttpEdge, path: str) -> None:
    answer = edge.http.get(path)

    problem(answer, 400, "request_refused")
    assert path.rpartition("/")[2] not in answer.text.replace(answer.json()["request_id"], "")
