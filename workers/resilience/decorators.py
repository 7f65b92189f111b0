"""The seed's decorators around one call, for functions outside sagas.

Inside a step declare ``calls=`` instead: a step's retries are rows, and nothing sleeps in a worker.
What is not let through raises `orchestrator.guarding.NotLetThrough` here too, so a decorated
function that a step calls all the same ends the attempt as it should.
"""

from __future__ import annotations

import functools
import inspect
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, ParamSpec, TypeVar

import limits
import redis
import stamina
import structlog
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter

from orchestrator.errors import DefinitionError, OutcomeUnknown, Retriable, Terminal
from orchestrator.guarding import Breaker, NotLetThrough, Rate, Request, Verdict, judged
from orchestrator.instrumentation import emit
from orchestrator.redaction.text import redact
from orchestrator.redaction.values import redact_dict
from workers.resilience.circuit import Circuit, Gate, through
from workers.resilience.own_circuit import OwnCircuit
from workers.resilience.shared_server import TIMEOUT_SECONDS, SharedServer

P = ParamSpec("P")
T = TypeVar("T")

WINDOW: Final = timedelta(minutes=1)
"""In which `circuit_breaker` counts failures."""

LONGEST_CALL: Final = timedelta(minutes=1)
"""After which another trial may be made where the one under way never came back."""

_LONGEST_PAUSE: Final = timedelta(minutes=1)


def retry(
    *,
    max_attempts: int = 3,
    delay: float = 0.5,
    backoff: float = 2.0,
    exceptions: tuple[type[Exception], ...],
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Call again after `exceptions`, sleeping in the caller's thread; the last one is raised.

    What is final, or may have happened, is never repeated, whatever `exceptions` says: a decline,
    an unknown outcome. A `retry_after` of the error is honoured, or raised if it is over a minute.

    Args:
        max_attempts: calls in all.
        delay: seconds before the second; as much again is added at random.
        backoff: by which each further pause is longer than the one before, up to a minute.
        exceptions: named by you; "all" would be wrong for money.
    """

    def wants_another(error: Exception) -> bool | timedelta:
        if not isinstance(error, exceptions) or isinstance(error, Terminal | OutcomeUnknown):
            return False
        asked = error.retry_after if isinstance(error, Retriable) else None
        if asked is None:
            return True
        return asked if asked <= _LONGEST_PAUSE else False

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        _check_synchronous(function)

        @functools.wraps(function)
        def repeated(*args: P.args, **kwargs: P.kwargs) -> T:
            for attempt in stamina.retry_context(  # `stamina.retry` would log the arguments
                on=wants_another,
                attempts=max_attempts,
                timeout=None,
                wait_initial=delay,
                wait_jitter=delay,
                wait_exp_base=backoff,
                wait_max=_LONGEST_PAUSE,
            ):
                with attempt:
                    return function(*args, **kwargs)
            raise AssertionError("the last attempt raises what it met")

        return repeated

    return decorate


def circuit_breaker(
    *,
    failure_threshold: int = 5,
    recovery_timeout: float = 30.0,
    judge: Callable[[BaseException], Verdict] = judged,
    name: str | None = None,
    url: str | None = None,
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Stop calling for `recovery_timeout` seconds after so many outages within a minute.

    Args:
        judge: what an exception says of the other side; by default a connection refused or broken,
            a timeout and an unknown outcome are outages, and everything else is not.
        name: of the circuit; by default the function's.
        url: the Redis by which all processes share it; without, it is this process's own.

    The decorated function raises `NotLetThrough` (``circuit_open``) instead of calling.
    """
    breaker = Breaker(
        failures=failure_threshold,
        within=WINDOW,
        open_for=timedelta(seconds=recovery_timeout),
        judge=judge,
    )

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        _check_synchronous(function)
        known_as = name or _name(function)
        circuit: Gate = (
            OwnCircuit(known_as, breaker)
            if url is None
            else Circuit(SharedServer(url, prefix="amends:"), known_as, breaker)
        )

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            request = Request(key=uuid.uuid4().hex, attempt=1, number=1, takes=LONGEST_CALL)
            return through(circuit, breaker, request, lambda: function(*args, **kwargs))

        return guarded

    return decorate


def rate_limit(
    *, max_calls: int, period: timedelta, name: str | None = None, url: str | None = None
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Allow `max_calls` in any window of `period`; more raise `NotLetThrough` (``rate_reached``).

    Args:
        period: whole seconds.
        name: of what is limited; by default the function's.
        url: the Redis by which all processes share it; without, it is this process's own. While it
            does not answer, every call is let through.

    Raises:
        DefinitionError: that is no rate, or not of whole seconds.
    """
    agreed = Rate(max_calls, per=period)
    if agreed.per % timedelta(seconds=1):
        raise DefinitionError(f"rate_limit(period={period}): whole seconds only")
    rate = limits.RateLimitItemPerSecond(agreed.limit, agreed.per // timedelta(seconds=1))

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        _check_synchronous(function)
        known_as = name or _name(function)
        limiter = MovingWindowRateLimiter(
            storage_from_string("memory://")
            if url is None
            else storage_from_string(
                url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
            )
        )

        def free_at() -> float | None:
            """When to come again, or None: it may be called now."""
            try:
                if limiter.hit(rate, known_as):
                    return None
                return limiter.get_window_stats(rate, known_as).reset_time
            except redis.RedisError as error:
                emit("guards.lost", error=f"{type(error).__name__}: {error}")
                return None

        @functools.wraps(function)
        def limited(*args: P.args, **kwargs: P.kwargs) -> T:
            at = free_at()
            if at is not None:
                raise NotLetThrough(
                    f"{known_as} may be called {max_calls} times in {period}",
                    code="rate_reached",
                    retry_after=timedelta(seconds=max(0.0, at - time.time())),
                    is_exact=False,
                )
            return function(*args, **kwargs)

        return limited

    return decorate


def timer(*, metric_name: str | None = None) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Tell the observers of `orchestrator.instrumentation` how long each call took."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        _check_synchronous(function)

        @functools.wraps(function)
        def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            began = time.perf_counter()
            is_done = False
            try:
                returned = function(*args, **kwargs)
                is_done = True
            finally:
                emit(
                    "call.timed",
                    metric=metric_name or _name(function),
                    seconds=time.perf_counter() - began,
                    succeeded=is_done,
                )
            return returned

        return timed

    return decorate


def log_execution(
    *, log_args: bool = False, log_result: bool = False
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Log the beginning and the end of each call, without card data.

    Args:
        log_args, log_result: show them too; both are redacted, neither is cut.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        _check_synchronous(function)
        known_as = _name(function)

        @functools.wraps(function)
        def logged(*args: P.args, **kwargs: P.kwargs) -> T:
            logger = structlog.get_logger("amends.calls").bind(call=known_as)
            shown = redact_dict({"arguments": args, "named": kwargs}) if log_args else {}
            logger.info("call.started", **shown)
            try:
                returned = function(*args, **kwargs)
            except BaseException as error:
                logger.warning("call.failed", error=redact(f"{type(error).__name__}: {error}"))
                raise
            logger.info("call.succeeded", **redact_dict({"result": returned} if log_result else {}))
            return returned

        return logged

    return decorate


def _check_synchronous(function: Callable[..., Any]) -> None:
    """Refuse what only returns a coroutine or a generator: its work would happen outside.

    Raises:
        TypeError: it is one.
    """
    deferred = (
        inspect.iscoroutinefunction,
        inspect.isasyncgenfunction,
        inspect.isgeneratorfunction,
    )
    if any(is_one(function) for is_one in deferred):
        raise TypeError(
            f"{_name(function)} is a coroutine or generator function; decorate a plain function"
        )


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"
