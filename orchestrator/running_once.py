"""Running a call once: claim, run, finish; or inside the caller's transaction: lock, run, write.

After a lost answer of the store the same statement is sent again with the same token: it finds its
own claim, or its own end, and takes no second effect.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.entries import Json
from orchestrator.errors import (
    IdempotencyConflictError,
    LogUnavailableError,
    OutcomeUnknown,
    PayloadError,
    Retriable,
    Terminal,
)
from orchestrator.idempotency_record import (
    Answer,
    Call,
    CallersRecords,
    Claim,
    Claimed,
    Conflict,
    Ending,
    Failed,
    IdempotencyInFlightError,
    IdempotencyRecord,
    IdempotencyStore,
    InProgress,
    InvalidIdempotencyUsage,
    Released,
    Succeeded,
    Unknown,
)
from orchestrator.instrumentation import emit
from orchestrator.kept_errors import as_json, from_json, kept, rebuilt, without_cards
from orchestrator.payloads import canonical

DAY_SECONDS = 86_400.0
PATIENCE_SECONDS = 10.0
"""How long a store that does not answer is asked again."""

FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.5
MAX_RESULT_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How calls of one operation are run once.

    Args:
        repeatable: running it twice does no harm, so a call that never answered is run again.
        wait_seconds: how long to wait for the answer of a call with this key that is at work.
        ttl_seconds: how long an end is remembered, from the end on.
        lease_seconds: how long a claim lives without a sign of its process.
        timeout_seconds: the longest a call may take. After that others count it as unknown; its
            own answer is still written down.
        terminal_errors: beside `Terminal`: no effect, and final. Kept, and raised again.
        retriable_errors: beside `Retriable`: no effect, and worth another try. Frees the key.

    Raises:
        InvalidIdempotencyUsage: a time that makes no sense.
    """

    repeatable: bool = False
    wait_seconds: float = 0.0
    ttl_seconds: float = DAY_SECONDS
    lease_seconds: float = 15.0
    timeout_seconds: float = 300.0
    terminal_errors: tuple[type[Exception], ...] = ()
    retriable_errors: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        if min(self.ttl_seconds, self.lease_seconds, self.timeout_seconds) <= 0:
            raise InvalidIdempotencyUsage("ttl, lease and timeout must be more than 0 seconds")

    @property
    def final(self) -> tuple[type[Exception], ...]:
        return (Terminal, *self.terminal_errors)

    def claim(self, call: Call) -> Claim:
        """Return a claim with a token of its own."""
        return Claim(
            call=call,
            token=uuid.uuid4(),
            repeatable=self.repeatable,
            lease_seconds=self.lease_seconds,
            timeout_seconds=self.timeout_seconds,
            keep_seconds=self.ttl_seconds,
        )

    def raised(self, error: BaseException) -> Ending:
        """Return what an exception out of the function means."""
        match error:
            case OutcomeUnknown() if not self.repeatable:
                return Unknown(error=kept(error))
            case _ if isinstance(error, self.final):
                return Failed(error=kept(error))
            case _ if self.repeatable or isinstance(error, (Retriable, *self.retriable_errors)):
                return Released()
            case _:
                return Unknown(error=kept(error))

    def returned(self, value: Any) -> tuple[Ending, PayloadError | None]:
        """Return what a returned value means: without a JSON form it cannot be given again."""
        try:
            return Succeeded(result=storable(value)), None
        except PayloadError as error:
            return (Released() if self.repeatable else Unknown(error=kept(error))), error


def storable(value: Any) -> Json:
    """Return a result as the JSON that is stored, without card data.

    Raises:
        PayloadError: it has no JSON form, or one of more than 1 MB.
    """
    result = as_json(value)
    if len(canonical(result)) > MAX_RESULT_BYTES:
        raise PayloadError(f"the result is larger than {MAX_RESULT_BYTES:,} bytes; return its id")
    return without_cards(result)


def run(
    store: IdempotencyStore,
    call: Call,
    policy: Policy,
    function: Callable[[], Any],
    returns: Any = Any,
) -> Any:
    """Run the call, or return what it was answered before; see `orchestrator.idempotency`."""
    claim = policy.claim(call)
    answer = _enter(store, claim, policy)
    if not isinstance(answer, Claimed):
        return _answered(answer, call, policy, returns)
    with store.kept(claim):
        ending, error = _run(function, policy)
        record = _finish(store, claim, ending, error)
    if isinstance(ending, Unknown):
        emit("idempotency.unknown", scope=call.scope, key=call.key)
    if error is not None:
        raise error
    return _own_answer(record, claim, policy, returns)


def run_inside(
    records: CallersRecords,
    call: Call,
    policy: Policy,
    function: Callable[[], Any],
    returns: Any = Any,
) -> Any:
    """Run the call in the caller's transaction, or return what it was answered before.

    What it writes and its record are committed together, by the caller. A raise undoes what it
    wrote; a terminal one is recorded, and counts if the caller commits all the same.
    """
    claim = policy.claim(call)
    _lock(records, call, policy)
    while True:
        record = records.read(call)
        if record is not None:
            return _answered(record.answers(call), call, policy, returns)
        try:
            with records.savepoint():
                result = storable(function())
                _must(records.write(claim, Succeeded(result=result)))
        except _OvertakenError:
            continue  # by a call outside any transaction: what was written here is undone
        except policy.final as error:
            records.write(claim, Failed(error=kept(error)))
            raise
        return from_json(result, returns)


class _OvertakenError(Exception):
    """Somebody else wrote the record first."""


def _must(record: IdempotencyRecord | None) -> None:
    if record is None:
        raise _OvertakenError


def _enter(store: IdempotencyStore, claim: Claim, policy: Policy) -> Answer:
    """Claim the key; wait, where the policy says so, for a call that is at work."""
    began = time.monotonic()
    for pause in _pauses():
        asked = time.monotonic()
        try:
            record = store.claim(claim)
        except LogUnavailableError:
            if asked - began > PATIENCE_SECONDS:
                raise
            time.sleep(pause)
            continue
        answer = InProgress() if record is None else record.answers(claim.call, claim.token)
        match answer:
            case Claimed(lease_left_seconds=left) if time.monotonic() >= asked + left:
                # The answer came too late: the claim may be anybody's, and nothing has begun.
                store.finish(claim, Released())
            case InProgress() if asked + pause < began + policy.wait_seconds:
                time.sleep(pause)
            case _:
                return answer
    raise AssertionError("there is always another pause")


def _lock(records: CallersRecords, call: Call, policy: Policy) -> None:
    began = time.monotonic()
    for pause in _pauses():
        if records.lock(call):
            return
        if time.monotonic() + pause > began + policy.wait_seconds:
            raise _in_flight(call)
        time.sleep(pause)


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)


def _run(function: Callable[[], Any], policy: Policy) -> tuple[Ending, BaseException | None]:
    """Return how the function ended, and what the caller is to be told instead of a result."""
    try:
        value = function()
    except BaseException as error:  # noqa: BLE001 - raised again once it is written down
        return policy.raised(error), error
    return policy.returned(value)


def _finish(
    store: IdempotencyStore, claim: Claim, ending: Ending, error: BaseException | None
) -> IdempotencyRecord | None:
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return store.finish(claim, ending)
        except LogUnavailableError as unavailable:
            if time.monotonic() < until:
                time.sleep(FIRST_PAUSE_SECONDS)
            elif isinstance(ending, Unknown):
                return None  # the end of the lease will say the same
            else:
                raise LogUnavailableError(
                    f"{claim.call.scope} ran for key {claim.call.key!r}, but how it ended could "
                    "not be written down; ask again with the same key"
                ) from (error or unavailable)


def _own_answer(
    record: IdempotencyRecord | None, claim: Claim, policy: Policy, returns: Any
) -> Any:
    """Answer with what stands, which is our result unless our claim was taken over."""
    call = claim.call
    is_ours = record is not None and record.token == claim.token
    if not is_ours and not policy.repeatable:
        emit("idempotency.result_refused", scope=call.scope, key=call.key)
    elif record is not None and record.settled_by is not None:
        emit("idempotency.late_result", scope=call.scope, key=call.key)
    answer = Unknown() if record is None else record.answers(call)
    return _answered(answer, call, policy, returns)


def _answered(answer: Answer, call: Call, policy: Policy, returns: Any) -> Any:
    """Return the stored result, or raise what the answer says."""
    match answer:
        case Succeeded(result=result):
            return from_json(result, returns)
        case Failed(error=error):
            raise rebuilt(error, policy.final) or _as_terminal(error)
        case Conflict():
            raise IdempotencyConflictError(
                f"key {call.key!r} of {call.scope} was used with another payload; send that one, "
                "or use a key of its own"
            )
        case Unknown(error=error):
            emit("idempotency.unknown", scope=call.scope, key=call.key)
            raise (error and rebuilt(error, (OutcomeUnknown,))) or _as_unknown(call)
        case InProgress() | Claimed():
            raise _in_flight(call)


def _as_terminal(error: Json) -> Terminal:
    return Terminal(error["message"], code=error.get("code"), details=error.get("details"))


def _as_unknown(call: Call) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"nobody knows how {call.scope} ended for key {call.key!r}; it is not run again until "
        "somebody settles it",
        code="outcome_unknown",
        details={"scope": call.scope, "key": call.key},
    )


def _in_flight(call: Call) -> IdempotencyInFlightError:
    return IdempotencyInFlightError(
        f"{call.scope} is at work for key {call.key!r}; ask again with the same key"
    )
