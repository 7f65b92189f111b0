"""Idempotency for any function: under one key it runs once, and everybody gets its one answer.

    claim ──▶ run ──▶ finish          the first call of a key
    claim ──▶ the stored answer       every other call of the key with the same payload

What a call did outside cannot be taken back by a store. So a call that never answered, because its
process died or nobody knows how it ended, is *unknown*: it is not run again, and later calls are
told so until somebody settles it. Two kinds of function need no such caution: one that is declared
*repeatable*, and one that writes only inside the caller's transaction, which holds the record too.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast, get_type_hints
from uuid import UUID

from pydantic import BaseModel

from orchestrator.coroutines import in_thread
from orchestrator.errors import IdempotencyConflictError, PayloadError
from orchestrator.idempotency_record import (
    Call,
    Failed,
    IdempotencyInFlightError,
    IdempotencyRecord,
    IdempotencyState,
    IdempotencyStore,
    InvalidIdempotencyUsage,
    Released,
    SettlementRefusedError,
    Succeeded,
    TransactionalIdempotencyStore,
)
from orchestrator.instrumentation import emit
from orchestrator.kept_errors import kept
from orchestrator.payloads import canonical, checked_key, to_json
from orchestrator.running_once import DAY_SECONDS, Policy, run, run_inside, storable

__all__ = [
    "IdempotencyConflictError",
    "IdempotencyInFlightError",
    "IdempotencyRecord",
    "IdempotencyState",
    "IdempotencyStore",
    "InvalidIdempotencyUsage",
    "Policy",
    "Released",
    "SettlementRefusedError",
    "Succeeded",
    "hash_payload",
    "idempotent",
    "run_once",
    "settle",
]

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT = Policy()
MAX_WORDS = 500


def idempotent(
    store: IdempotencyStore,
    *,
    key_arg: str = "idempotency_key",
    payload_arg: str | None = None,
    transaction_arg: str | None = None,
    scope: str | None = None,
    repeatable: bool = False,
    wait_seconds: float = DEFAULT.wait_seconds,
    ttl_seconds: float = DAY_SECONDS,
    lease_seconds: float = DEFAULT.lease_seconds,
    timeout_seconds: float = DEFAULT.timeout_seconds,
    terminal_errors: tuple[type[Exception], ...] = (),
    retriable_errors: tuple[type[Exception], ...] = (),
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a function run once for each key; every other call gets the answer of the first.

    The answer is stored as JSON and read back as the function's declared return type, for the first
    caller too, so that all get the same. A coroutine function stays one. When its caller is
    cancelled the call runs to its end all the same, and is written down.

    Args:
        store: where records are kept.
        key_arg: the parameter that holds the key: text of 1 to 200 characters.
        payload_arg: the parameter that says what is asked for; None: all but the key (and `self`).
        transaction_arg: the parameter that holds the caller's SQLAlchemy Session or Connection. The
            record is then part of that transaction, as is what the function writes there: exactly
            once. The function may do nothing outside, and may not commit or roll back.
        scope: names the operation; keys of different scopes never meet. Without one, the module and
            name of the function: give it one before you rename or move it.
        repeatable, wait_seconds, ttl_seconds, lease_seconds, timeout_seconds, terminal_errors,
            retriable_errors: see `orchestrator.running_once.Policy`.

    Raises, when called, beside what the function raises:
        InvalidKeyError: no key, or one that cannot be stored.
        PayloadError: the payload is not JSON; nothing ran. Or the result is not: it did.
        IdempotencyConflictError: the key came with another payload before; nothing ran.
        IdempotencyInFlightError: another call with the key is still at work, after `wait_seconds`.
        OutcomeUnknown: an earlier call with the key may have happened, and nobody has settled it.
        LogUnavailableError: the store does not answer. Call again, with the same key.

    Raises:
        InvalidIdempotencyUsage: the function does not fit; the message says why.
    """
    policy = Policy(
        repeatable=repeatable,
        wait_seconds=wait_seconds,
        ttl_seconds=ttl_seconds,
        lease_seconds=lease_seconds,
        timeout_seconds=timeout_seconds,
        terminal_errors=terminal_errors,
        retriable_errors=retriable_errors,
    )

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        reader = _CallReader.of(function, scope, key_arg, payload_arg, transaction_arg)
        returns = _return_type(function)

        def call_once(execute: Callable[[], Any], *args: P.args, **kwargs: P.kwargs) -> Any:
            arguments = reader.arguments(*args, **kwargs)
            call = reader.call(arguments)
            if transaction_arg is None:
                return run(store, call, policy, execute, returns)
            if not isinstance(store, TransactionalIdempotencyStore):
                raise InvalidIdempotencyUsage(
                    f"{type(store).__name__} has no part in transactions; drop transaction_arg"
                )
            transaction = arguments.get(transaction_arg)
            if transaction is None:
                raise InvalidIdempotencyUsage(f"{reader.scope} needs a transaction")
            return run_inside(store.inside(transaction), call, policy, execute, returns)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> Any:
            return call_once(functools.partial(function, *args, **kwargs), *args, **kwargs)

        @functools.wraps(function)
        async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await in_thread(
                lambda run_on_loop: call_once(
                    lambda: run_on_loop(cast("Any", function(*args, **kwargs))), *args, **kwargs
                )
            )

        if inspect.iscoroutinefunction(function):
            return cast("Callable[P, R]", awaited)
        return cast("Callable[P, R]", called)

    return decorate


def run_once(
    store: IdempotencyStore,
    function: Callable[[], Any],
    *,
    scope: str,
    key: str,
    payload: Any,
    policy: Policy = DEFAULT,
) -> Any:
    """Call `function` under a key, for a caller that is no decorated function: a webhook, an edge.

    Returns and raises what `idempotent` does; the result is plain JSON.
    """
    return run(store, _call(scope, key, payload), policy, function)


def settle(
    store: IdempotencyStore,
    scope: str,
    key: str,
    outcome: Succeeded | Released | Exception,
    *,
    by: str,
    because: str,
    seen: UUID | None = None,
) -> IdempotencyRecord:
    """Say how an unknown call ended, after asking whoever knows; safe to repeat.

    Args:
        outcome: `Succeeded(result=…)`, which later calls get; an error, which they are told; or
            `Released()`: it did not happen, and the next call runs.
        by, because: who says so and why, 1 to 500 characters; kept for good.
        seen: the record's token: of the call that was asked about, and not of a later one.

    Raises:
        SettlementRefusedError: there is no such key, it is still at work, its end is known, or
            another call has used it since it was `seen`.
        PayloadError: the result is not JSON, or nobody or no reason is named.
    """
    for each in (by, because):
        if not 0 < len(each.strip()) <= MAX_WORDS:
            raise PayloadError(f"settling needs who and why, at most {MAX_WORDS} characters each")
    match outcome:
        case Succeeded(result=result):
            ending: Succeeded | Failed | Released = Succeeded(result=storable(result))
        case Released():
            ending = outcome
        case error:
            ending = Failed(error=kept(error))
    settled = store.settle(scope, key, ending, by=to_json(by), because=to_json(because), seen=seen)
    if settled is not None:
        emit("idempotency.settled", scope=scope, key=key, by=by, because=because)
        return settled
    found = store.read(scope, key)
    said = (ending, by, because)
    if found and (found.answers(found.call), found.settled_by, found.settled_because) == said:
        return found
    state = None if found is None else found.state
    if state is IdempotencyState.UNKNOWN:
        raise SettlementRefusedError(
            f"key {key!r} of {scope} was used again since it was seen; look again", state=state
        )
    raise SettlementRefusedError(
        f"key {key!r} of {scope} is {state or 'not there'}; only an unknown is settled", state=state
    )


def hash_payload(payload: Any) -> str:
    """Return the hash of a payload's canonical JSON: 64 hex digits, the same in every process.

    Order of keys and of arguments makes no difference; models and dataclasses count as the fields
    that were set, decimals as normalised text. `1`, `1.0` and `"1"` are three payloads, and so are
    two spellings of one text in Unicode: they are compared as they came, like keys.

    Raises:
        PayloadError: it has no faithful JSON form, such as bytes, NaN or an object.
    """
    try:
        plain = to_json(_as_given(payload))
    except RecursionError:
        raise PayloadError("the payload is nested too deep; flatten it") from None
    return hashlib.sha256(canonical(plain)).hexdigest()


def _as_given(value: Any) -> Any:
    """Return models and dataclasses, wherever they stand, as what was given, before defaults."""
    match value:
        case BaseModel():
            return value.model_dump(exclude_unset=True, round_trip=True)
        case Mapping():
            return {name: _as_given(each) for name, each in value.items()}
        case list() | tuple():
            return [_as_given(each) for each in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = dataclasses.fields(value)
            return {each.name: _as_given(getattr(value, each.name)) for each in fields}
        case _:
            return value


def _call(scope: str, key: Any, payload: Any) -> Call:
    return Call(scope=scope, key=checked_key(key), fingerprint=hash_payload(payload))


def _return_type(function: Callable[..., Any]) -> Any:
    try:
        return get_type_hints(function).get("return", Any)
    except (NameError, TypeError):
        return Any


@dataclass(frozen=True, slots=True, kw_only=True)
class _CallReader:
    """Reads from a function's arguments which call they are; by position or by name is the same."""

    signature: inspect.Signature
    scope: str
    key_arg: str
    payload_arg: str | None
    left_out: frozenset[str]

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        scope: str | None,
        key_arg: str,
        payload_arg: str | None,
        transaction_arg: str | None,
    ) -> _CallReader:
        name = f"{function.__module__}.{function.__qualname__}"
        signature = inspect.signature(function)
        for each in (key_arg, payload_arg, transaction_arg):
            if each is not None and each not in signature.parameters:
                raise InvalidIdempotencyUsage(f"{name} has no parameter {each!r}")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidIdempotencyUsage(f"{name} is a generator; return a list instead")
        if transaction_arg is not None and inspect.iscoroutinefunction(function):
            raise InvalidIdempotencyUsage(
                f"{name} is a coroutine function; call a plain one through AsyncSession.run_sync"
            )
        if scope is None and function.__module__ == "__main__":
            raise InvalidIdempotencyUsage(
                f"{name} is another function when imported; give it a scope"
            )
        return cls(
            signature=signature,
            scope=scope or name,
            key_arg=key_arg,
            payload_arg=payload_arg,
            left_out=frozenset({key_arg, transaction_arg or key_arg, *_receiver(signature)}),
        )

    def arguments(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        return self.signature.bind(*args, **kwargs).arguments

    def call(self, arguments: Mapping[str, Any]) -> Call:
        if self.payload_arg is not None:
            payload = arguments.get(self.payload_arg)
        else:
            payload = {name: each for name, each in arguments.items() if name not in self.left_out}
        return _call(self.scope, arguments.get(self.key_arg), payload)


def _receiver(signature: inspect.Signature) -> list[str]:
    """The object of a method says on what, not what is asked for."""
    return [name for name in list(signature.parameters)[:1] if name in ("self", "cls")]
