"""Rate, circuit, then the call: the guards that all workers share through Redis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeVar

from orchestrator.guarding import Breaker, CallPolicy, Guards, Rate, Request
from workers.resilience.circuit import Circuit, through
from workers.resilience.shared_rate import SharedRate
from workers.resilience.shared_server import SharedServer

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What a deployment says instead of what a definition declares; None leaves that.

    Args:
        rates: by the name of the policy.
        failures: after how many any circuit opens; 0: none ever does.
        open_for: of every circuit.
    """

    rates: Mapping[str, Rate] = field(default_factory=dict)
    failures: int | None = None
    open_for: timedelta | None = None

    def of(self, policy: CallPolicy) -> CallPolicy:
        """Return the policy with this deployment's numbers."""
        return replace(
            policy,
            rate=self.rates.get(policy.name, policy.rate),
            breaker=policy.breaker and self._breaker(policy.breaker),
        )

    def _breaker(self, breaker: Breaker) -> Breaker | None:
        if self.failures == 0:
            return None
        return replace(
            breaker,
            failures=breaker.failures if self.failures is None else self.failures,
            open_for=breaker.open_for if self.open_for is None else self.open_for,
        )


@dataclass(frozen=True, slots=True)
class _Guard:
    rate: SharedRate | None
    circuit: Circuit | None
    breaker: Breaker | None

    def through_circuit(self, request: Request, send: Callable[[], T]) -> T:
        if self.circuit is None or self.breaker is None:
            return send()
        return through(self.circuit, self.breaker, request, send)


class SharedGuards(Guards):
    """Guards of one deployment."""

    def __init__(self, server: SharedServer, numbers: Numbers) -> None:
        self._server, self._numbers = server, numbers
        self._known: dict[CallPolicy, _Guard] = {}

    def call(self, policy: CallPolicy, request: Request, send: Callable[[], T]) -> T:
        guard = self._guard(policy)
        if guard.rate is None:
            return guard.through_circuit(request, send)
        slot = guard.rate.take(request)
        is_sent = False

        def sending() -> T:
            nonlocal is_sent
            is_sent = True
            return send()

        try:
            return guard.through_circuit(request, sending)
        finally:
            if is_sent:
                guard.rate.landed(slot, request)
            else:
                guard.rate.give_back(slot)

    def pause(self, policy: CallPolicy, key: str) -> timedelta | None:
        """Return how long an attempt had better wait that is not claimed yet; None: not at all."""
        guard = self._guard(policy)
        pause = None if guard.circuit is None else guard.circuit.pause(key)
        if pause is None and guard.rate is not None:
            return guard.rate.pause(key)
        return pause

    def circuit(self, policy: CallPolicy) -> Circuit | None:
        """Return the circuit of a policy, for those who want to look at it."""
        return self._guard(policy).circuit

    def _guard(self, policy: CallPolicy) -> _Guard:
        if policy not in self._known:
            self._known[policy] = self._built(self._numbers.of(policy))
        return self._known[policy]

    def _built(self, policy: CallPolicy) -> _Guard:
        rate, breaker = policy.rate, policy.breaker
        return _Guard(
            rate=None if rate is None else SharedRate(self._server, policy.name, rate),
            circuit=None if breaker is None else Circuit(self._server, policy.name, breaker),
            breaker=breaker,
        )
