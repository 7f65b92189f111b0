"""The guards of a deployment: their order, its numbers, and a Valkey that is killed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import redis

from orchestrator.errors import Retriable
from orchestrator.guarding import Breaker, CallPolicy, NotLetThrough, Rate
from steps.checkout import CARRIER, GATEWAY
from tests.integration.engine import events
from tests.integration.shared_guards import _is_patient, request, server  # noqa: F401 - fixtures
from workers.bootstrap import shared_guards
from workers.local_servers.running_servers import RunningServers
from workers.resilience.decorators import circuit_breaker, rate_limit
from workers.resilience.guards import Numbers, SharedGuards
from workers.resilience.shared_server import SharedServer
from workers.settings import Settings

POLICY = CallPolicy(
    name="bank",
    rate=Rate(4, per=timedelta(seconds=30)),
    breaker=Breaker(failures=2, open_for=timedelta(seconds=30)),
)


def answered() -> str:
    return "yes"


def refused_connection() -> str:
    raise ConnectionRefusedError


def not_sent() -> str:
    raise Retriable("send-by passed")


@pytest.fixture
def guards(server: SharedServer) -> SharedGuards:  # noqa: F811 - the fixture
    return SharedGuards(server, Numbers())


def test_a_call_passes_the_rate_and_then_the_circuit(guards: SharedGuards) -> None:
    for number in range(2):
        with pytest.raises(ConnectionRefusedError):
            guards.call(POLICY, request(f"saga-{number}"), refused_connection)

    for number in range(5):  # a call that the circuit stops gives its slot back
        with pytest.raises(NotLetThrough) as stopped:
            guards.call(POLICY, request(f"later-{number}"), answered)
        assert stopped.value.code == "circuit_open"


def test_what_the_rate_holds_back_is_not_counted_by_the_circuit(guards: SharedGuards) -> None:
    for number in range(4):
        assert guards.call(POLICY, request(f"saga-{number}"), answered) == "yes"
    for number in range(20):
        with pytest.raises(NotLetThrough) as refused:
            guards.call(POLICY, request(f"later-{number}"), answered)
        assert refused.value.code == "rate_reached"


def test_what_was_never_sent_opens_nothing(guards: SharedGuards) -> None:
    breaker_only = CallPolicy(name="bank", breaker=POLICY.breaker)
    for number in range(10):
        with pytest.raises(Retriable, match="send-by"):
            guards.call(breaker_only, request(f"saga-{number}"), not_sent)

    assert guards.call(breaker_only, request(), answered) == "yes"


def test_steps_of_one_policy_share_it_and_others_have_their_own(guards: SharedGuards) -> None:
    for number in range(2):
        with pytest.raises(ConnectionRefusedError):
            guards.call(GATEWAY_LIKE, request(f"saga-{number}"), refused_connection)

    with pytest.raises(NotLetThrough):
        guards.call(GATEWAY_LIKE, request("another step"), answered)
    assert guards.call(POLICY, request(), answered) == "yes"


GATEWAY_LIKE = CallPolicy(name="gateway", breaker=POLICY.breaker)


def test_a_deployment_says_other_numbers() -> None:
    numbers = Numbers(rates={"bank": Rate(7)}, failures=9, open_for=timedelta(seconds=1))
    chosen, off = numbers.of(POLICY), Numbers(failures=0).of(POLICY)

    assert chosen.rate == Rate(7)
    assert chosen.breaker is not None
    assert (chosen.breaker.failures, chosen.breaker.open_for) == (9, timedelta(seconds=1))
    assert off.breaker is None
    assert off.rate == POLICY.rate
    assert Numbers().of(POLICY) == POLICY


def test_the_settings_reach_the_checkouts_policies(broker_url: str) -> None:
    settings = Settings.load(
        broker_url=broker_url, gateway_rate="2/minute", carrier_rate="2 per 3 minutes"
    )
    guards = shared_guards(settings, broker_url)
    for number in range(2):
        guards.call(GATEWAY, request(f"saga-{number}"), answered)
        guards.call(CARRIER, request(f"saga-{number}"), answered)

    for policy in (GATEWAY, CARRIER):
        with pytest.raises(NotLetThrough):
            guards.call(policy, request("later"), answered)
    with redis.Redis.from_url(broker_url) as client:
        assert all(each.startswith(b"amends:{") for each in client.scan_iter())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was sent to a server that is then left alone for good, if it does not answer."""
    monkeypatch.setattr("workers.resilience.shared_server.BLIND_SECONDS", 3600.0)
    sent: list[str] = []
    execute: Any = redis.Redis.execute_command

    def noted(self: redis.Redis, *arguments: Any, **options: Any) -> Any:
        sent.append(arguments[0])
        return execute(self, *arguments, **options)

    monkeypatch.setattr(redis.Redis, "execute_command", noted)
    return sent


def test_while_redis_is_down_everything_is_let_through_after_one_short_wait(
    guards: SharedGuards, servers: RunningServers, asked: list[str]
) -> None:
    for number in range(4):
        guards.call(POLICY, request(f"saga-{number}"), answered)
    servers.valkey.stop()
    asked.clear()

    with events() as heard:
        for number in range(100):
            assert guards.call(POLICY, request(f"later-{number}"), answered) == "yes"
        with pytest.raises(ConnectionRefusedError):
            guards.call(POLICY, request(), refused_connection)

    assert len(asked) == 1
    assert [event for event, _ in heard] == ["guards.lost"]


def test_a_server_that_hangs_holds_up_one_call_and_is_asked_again_later(
    broker_url: str, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    monkeypatch.setattr("workers.resilience.shared_server.TIMEOUT_SECONDS", 3.0)
    hanging = SharedServer(broker_url, prefix="tests:")
    guards = SharedGuards(hanging, Numbers())
    guards.call(POLICY, request(), answered)
    with redis.Redis.from_url(broker_url) as client, events() as heard:
        client.execute_command("CLIENT", "PAUSE", 600_000, "WRITE")
        asked.clear()
        for number in range(20):
            assert guards.call(POLICY, request(f"saga-{number}"), answered) == "yes"
        assert len(asked) == 1
        client.execute_command("CLIENT", "UNPAUSE")
        hanging._blind_until = 0.0  # later
        for number in range(3):
            guards.call(POLICY, request(f"later-{number}"), answered)
        with pytest.raises(NotLetThrough):
            guards.call(POLICY, request(), answered)
    hanging.close()

    assert [event for event, _ in heard] == ["guards.lost", "guards.regained"]


def test_decorated_functions_share_a_rate_and_a_circuit_by_the_servers_url(broker_url: str) -> None:
    def down() -> None:
        raise ConnectionRefusedError

    limited = [
        rate_limit(max_calls=1, period=timedelta(minutes=1), name="mail", url=broker_url)(answered)
        for _ in range(2)
    ]
    broken = [circuit_breaker(failure_threshold=1, name="mail", url=broker_url)(down) for _ in "ab"]

    limited[0]()
    with pytest.raises(NotLetThrough):
        limited[1]()
    with pytest.raises(ConnectionRefusedError):
        broken[0]()
    with pytest.raises(NotLetThrough):
        broken[1]()
