"""One circuit breaker for all workers: its state is in Redis, and each question is one script.

    closed    everything is let through; outages are counted
      │ outages of enough different keys, and a large enough share of all calls
    open      nothing is let through for a while
      │ the while is over
    trial     exactly one call, over all processes, is let through; the others are not
      ├ it was answered: closed
      ├ it met an outage: open again
      └ it says nothing, or its process died: the next call is the trial

Redis' clock is the only one. A call that began before the circuit opened changes nothing when it
ends: neither its success nor its failure is news.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol, TypeVar

from orchestrator.errors import Retriable
from orchestrator.guarding import Breaker, NotLetThrough, Request, Verdict
from orchestrator.instrumentation import emit
from workers.resilience.shared_server import SharedServer

T = TypeVar("T")

TRIAL_SLACK: Final = timedelta(seconds=2)
"""What a trial may take beyond its call before another may be made in its place."""

TRIAL_PAUSE: Final = timedelta(seconds=1)
"""How soon those come again who met the circuit while a trial was under way."""

ADMITTED_FOR: Final = timedelta(seconds=3)
"""How long who may be the trial is waited for on its way to the call, by those who ask after it."""

LONGEST_PAUSE: Final = timedelta(minutes=1)
"""So soon everybody is back who was put off, however long the circuit was open."""

SPREAD: Final = 0.5
"""They come back over this share of the open time, so that they do not all come at once."""

_COUNTING: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function text(number) return string.format('%.0f', number) end

-- Counts are kept for this window and the one before; what is left of that one is estimated.
local function add(key, what, within)
    local window = math.floor(now / within)
    if redis.call('HINCRBY', key, what .. text(window), 1) == 1 then
        for _, field in ipairs(redis.call('HKEYS', key)) do
            if tonumber(string.sub(field, 2)) < window - 1 then redis.call('HDEL', key, field) end
        end
        redis.call('PEXPIRE', key, math.ceil(within / 500))
    end
end
local function counted(key, what, within)
    local window = math.floor(now / within)
    local left = 1 - (now / within - window)
    local this = redis.call('HGET', key, what .. text(window)) or 0
    local before = redis.call('HGET', key, what .. text(window - 1)) or 0
    return this + before * left
end
"""

_ENTER: Final = f"""
-- KEYS[1] circuit  hash  open_until, trial, trial_until, trial_for (µs); absent while it is closed
-- KEYS[2] counts   hash  calls (c) and outages (o) by number of the window
-- ARGV    token, trial lease (µs), within (µs), open_for (µs)
{_COUNTING}
local open_until = tonumber(redis.call('HGET', KEYS[1], 'open_until'))
if not open_until then
    add(KEYS[2], 'c', tonumber(ARGV[3]))
    return {{'closed', '0'}}
end
if open_until > now + ARGV[4] then -- the clock was set back
    open_until = now + ARGV[4]
    redis.call('HSET', KEYS[1], 'open_until', text(open_until))
end
if open_until > now then return {{'open', text(open_until - now)}} end
local trial_until = tonumber(redis.call('HGET', KEYS[1], 'trial_until') or 0)
local latest = now + (redis.call('HGET', KEYS[1], 'trial_for') or 0)
if trial_until > latest then -- likewise
    trial_until = latest
    redis.call('HSET', KEYS[1], 'trial_until', text(trial_until))
end
if trial_until > now then return {{'trial_under_way', text(trial_until - now)}} end
redis.call('HSET', KEYS[1], 'trial', ARGV[1], 'trial_until', text(now + ARGV[2]),
    'trial_for', ARGV[2])
return {{'trial', '0'}}
"""

_PAUSE: Final = f"""
-- KEYS[1] circuit  hash  as above, and called: the open_until after which somebody comes for the
--                        trial, called_at: when (µs); admitted_until: who may be it is on the way
-- ARGV    open_for (µs), how long who was admitted may be on the way (µs), longest pause (µs)
{_COUNTING}
local open_until = tonumber(redis.call('HGET', KEYS[1], 'open_until'))
if not open_until then return {{'closed', '0', '0'}} end
if open_until > now + ARGV[1] then -- the clock was set back
    open_until = now + ARGV[1]
    redis.call('HSET', KEYS[1], 'open_until', text(open_until))
end
local age = math.max(0, now - (redis.call('HGET', KEYS[1], 'since') or now))
if open_until > now and redis.call('HGET', KEYS[1], 'called') ~= text(open_until) then
    local rest = math.max(open_until - now, math.min(age, ARGV[3]) / 2)
    redis.call('HSET', KEYS[1], 'called', text(open_until), 'called_at', text(now + rest))
    return {{'called', text(rest), text(age)}}
end
local closed_until = open_until
if redis.call('HGET', KEYS[1], 'called') == text(open_until) then
    local called_at = tonumber(redis.call('HGET', KEYS[1], 'called_at'))
    closed_until = math.max(closed_until, math.min(called_at, now + ARGV[3]))
end
for _, field in ipairs({{'trial_until', 'admitted_until'}}) do
    local busy_until = tonumber(redis.call('HGET', KEYS[1], field) or 0)
    closed_until = math.max(closed_until, math.min(busy_until, now + ARGV[1]))
end
if closed_until > now then return {{'open', text(closed_until - now), text(age)}} end
redis.call('HSET', KEYS[1], 'admitted_until', text(now + ARGV[2]))
return {{'admitted', '0', text(age)}}
"""

_LEAVE: Final = f"""
-- KEYS[1] circuit   hash  as above
-- KEYS[2] counts    hash  as above
-- KEYS[3] failures  zset  key of a call that met an outage -> when, the last time (µs)
-- ARGV    token, verdict, key of the call, failures, share, within (µs), open_for (µs)
{_COUNTING}
local verdict, within, open_for = ARGV[2], tonumber(ARGV[6]), tonumber(ARGV[7])
local function open()
    redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
    redis.call('HSET', KEYS[1], 'open_until', text(now + open_for), 'since', text(now))
    redis.call('PEXPIRE', KEYS[1], math.ceil(open_for / 1000) + 86400000)
end
if redis.call('EXISTS', KEYS[1]) == 1 then
    if redis.call('HGET', KEYS[1], 'trial') ~= ARGV[1] then return 'unchanged' end
    redis.call('HDEL', KEYS[1], 'trial', 'trial_until')
    if verdict == 'answered' then
        redis.call('DEL', KEYS[1])
        return 'closed'
    elseif verdict == 'outage' then
        redis.call('HSET', KEYS[1], 'open_until', text(now + open_for))
        redis.call('PEXPIRE', KEYS[1], math.ceil(open_for / 1000) + 86400000)
        return 'trial_failed'
    end
    return 'unchanged'
end
if verdict ~= 'outage' then return 'unchanged' end
add(KEYS[2], 'o', within)
redis.call('ZADD', KEYS[3], text(now), ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', text(now - within))
redis.call('PEXPIRE', KEYS[3], math.ceil(within / 1000))
if redis.call('ZCARD', KEYS[3]) < tonumber(ARGV[4]) then return 'unchanged' end
if counted(KEYS[2], 'o', within) < ARGV[5] * counted(KEYS[2], 'c', within) then
    return 'unchanged'
end
open()
return 'opened'
"""

_LOOK: Final = """
-- KEYS[1] circuit
local time = redis.call('TIME')
local open_until = redis.call('HGET', KEYS[1], 'open_until')
if not open_until then return {'closed', '0', '0'} end
local now = time[1] * 1000000 + time[2]
return {'open', string.format('%.0f', now - redis.call('HGET', KEYS[1], 'since')),
    string.format('%.0f', math.max(0, open_until - now))}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitState:
    """What an operator sees: for how long it has been open, and when it is tried next."""

    is_open: bool
    open_for: timedelta = timedelta(0)
    next_trial: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entered:
    """A call that was let through; `leave` wants it back."""

    token: str
    key: str
    is_trial: bool


class Gate(Protocol):
    """What `through` needs of a circuit, shared or not."""

    def enter(self, request: Request) -> Entered: ...

    def leave(self, entered: Entered, verdict: Verdict) -> None: ...


class Circuit:
    """The circuit of one name on one server."""

    def __init__(self, server: SharedServer, name: str, breaker: Breaker) -> None:
        self._server, self._name, self._breaker = server, name, breaker
        # One tag in braces: in a cluster all three live on the same node.
        base = f"{server.prefix}{{circuit.{name}}}"
        self._keys = [base, f"{base}.counts", f"{base}.failures"]
        self._enter = server.script(_ENTER)
        self._leave = server.script(_LEAVE)
        self._pause = server.script(_PAUSE)
        self._look = server.script(_LOOK)

    def enter(self, request: Request) -> Entered:
        """Let a call through, or not.

        Raises:
            NotLetThrough: ``circuit_open``; with the moment at which to come again.
        """
        token = uuid.uuid4().hex
        lease = request.takes + TRIAL_SLACK
        answer: Any = self._server.run(
            self._enter,
            self._keys[:2],
            [token, _us(lease), _us(self._breaker.within), _us(self._breaker.open_for)],
        )
        if answer is None:
            return Entered(token=token, key=request.key, is_trial=False)
        how, rest_us = answer[0].decode(), int(answer[1])
        if how in ("closed", "trial"):
            return Entered(token=token, key=request.key, is_trial=how == "trial")
        rest = timedelta(microseconds=rest_us)
        if how == "trial_under_way":
            rest = min(rest, TRIAL_PAUSE)
        raise NotLetThrough(
            f"the circuit to {self._name} is open",
            code="circuit_open",
            retry_after=rest + self._breaker.open_for * SPREAD * _share(request),
            is_exact=True,
        )

    def pause(self, key: str) -> timedelta | None:
        """Return how long who is not on the way yet had better wait, or None: not at all.

        Of those who ask while it is open one comes back for the trial, the others after it. The
        longer it was open, the rarer are both, up to `LONGEST_PAUSE`.
        """
        answer: Any = self._server.run(
            self._pause,
            self._keys[:1],
            [_us(self._breaker.open_for), _us(ADMITTED_FOR), _us(LONGEST_PAUSE)],
        )
        if answer is None or answer[0] in (b"closed", b"admitted"):
            return None
        rest, age = (timedelta(microseconds=int(each)) for each in answer[1:])
        return rest if answer[0] == b"called" else put_off_for(rest, age, key)

    def leave(self, entered: Entered, verdict: Verdict) -> None:
        """Say what a call that was let through tells of the other side."""
        if verdict is not Verdict.OUTAGE and not entered.is_trial:
            return  # only outages change a closed circuit
        breaker = self._breaker
        change: Any = self._server.run(
            self._leave,
            self._keys,
            [
                entered.token,
                verdict.value,
                entered.key,
                breaker.failures,
                breaker.share,
                _us(breaker.within),
                _us(breaker.open_for),
            ],
        )
        if change is not None:
            tell(change.decode(), self._name, breaker)

    def state(self) -> CircuitState | None:
        """How it stands; None when the server does not answer."""
        answer: Any = self._server.run(self._look, self._keys[:1], [])
        if answer is None:
            return None
        return CircuitState(
            is_open=answer[0] == b"open",
            open_for=timedelta(microseconds=int(answer[1])),
            next_trial=timedelta(microseconds=int(answer[2])),
        )


def put_off_for(rest: timedelta, age: timedelta, key: str) -> timedelta:
    """Return the pause of an attempt that met an open circuit before it was claimed.

    Args:
        rest: until the circuit may be tried.
        age: how long it has been open; who waits comes back ever more rarely.
        key: of the attempt's calls; it spreads those who wait.
    """
    half = min(age, LONGEST_PAUSE) / 2
    spread = _spread(f"{key}/{age}")
    return max(rest * (1 + spread / 2), half + half * spread)


def through(circuit: Gate, breaker: Breaker, request: Request, send: Callable[[], T]) -> T:
    """Return what `send` returns, if the circuit lets it through, and tell it how that ended.

    A trial is made for everybody: one that had no effect spends no budget of the saga that made it.

    Raises:
        NotLetThrough: `send` was not called.
    """
    entered = circuit.enter(request)
    verdict = Verdict.NOTHING
    try:
        returned = send()
        verdict = Verdict.ANSWERED
    except Exception as error:
        verdict = breaker.judge(error)
        if entered.is_trial and verdict is Verdict.OUTAGE and isinstance(error, Retriable):
            error.spends_budget = False
        raise
    finally:
        circuit.leave(entered, verdict)
    return returned


def tell(change: str, name: str, breaker: Breaker) -> None:
    """Tell observers what a call changed, if it changed anything."""
    seconds = breaker.open_for.total_seconds()
    match change:
        case "opened":
            emit("circuit.opened", circuit=name, seconds=seconds)
        case "trial_failed":
            emit("circuit.trial_failed", circuit=name, seconds=seconds)
        case "closed":
            emit("circuit.closed", circuit=name)
        case _:
            pass


def _us(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)


def _share(request: Request) -> float:
    """From 0 to 1, the same for the same request: where in the spread it comes back.

    Another attempt comes back elsewhere, so that not always the same saga has to be the trial.
    """
    return _spread(f"{request.key}/{request.attempt}/{request.number}")


def _spread(what: str) -> float:
    digest = hashlib.blake2b(what.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
