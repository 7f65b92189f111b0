"""One rate limit for all workers: a moving window in Redis that promises slots ahead.

Who is refused gets a moment of its own at which a slot will be free, comes back then, and finds it
kept. Nobody waits in a worker, nobody comes in a herd, and no slot lies idle while there is a
backlog; `limits` can only say when the window begins to clear, the same moment to everybody.

A request counts from when it has surely arrived: as long as it is under way, and for one window
after its answer. So what is counted *there* stays within the limit too, however slowly a request
travels. One that is never answered, because its worker died, counts as if it had taken all the time
that it may take.

A request that comes second in its attempt must not lose its place to the first when the attempt is
repeated. So when request n is refused, moments are kept for 1 to n.
"""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any, Final

from orchestrator.errors import DefinitionError
from orchestrator.guarding import NotLetThrough, Rate, Request
from workers.resilience.shared_server import SharedServer

LATENESS: Final = timedelta(milliseconds=30)
"""Those who come back are rung a little late, some later than others; slots leave room for it, but
never more than per/30."""

KEPT: Final = timedelta(minutes=2)
"""How long a promised slot may be claimed late."""

_CLOCK: Final = """
-- KEYS[5] clock      hash    last, ahead (µs): time does not go back, though Redis' clock may
local time = redis.call('TIME')
local set = redis.call('HMGET', KEYS[5], 'last', 'ahead')
local last, ahead = tonumber(set[1] or 0), tonumber(set[2] or 0)
local function text(number) return string.format('%.0f', number) end
local now = time[1] * 1000000 + time[2] + ahead
if now < last then now, ahead = last, ahead + last - now end
redis.call('HSET', KEYS[5], 'last', text(now), 'ahead', text(ahead))
"""

_TAKE: Final = (
    _CLOCK
    + """
-- KEYS[1] taken      zset    request -> when it counts from (µs); expected while it is under way
-- KEYS[2] promised   zset    key#number -> when its slot is free (µs)
-- KEYS[3] held       string  how long a request is under way, smoothed (µs)
-- KEYS[4] under_way  zset    request -> when it is given up (µs)
-- ARGV    request ('': a slot is not taken yet), key, number, takes (µs), limit, per (µs),
--         lateness (µs), kept (µs)
local key, number, takes = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local limit, per = tonumber(ARGV[5]), tonumber(ARGV[6])
local lateness, kept = tonumber(ARGV[7]), tonumber(ARGV[8])
local held = tonumber(redis.call('GET', KEYS[3]) or 0)

for _, request in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now - per))) do
    local given_up = tonumber(redis.call('ZSCORE', KEYS[4], request))
    if given_up and given_up > now - per then -- slower than expected
        redis.call('ZADD', KEYS[1], text(math.min(given_up, now)), request)
    else
        redis.call('ZREM', KEYS[1], request)
        redis.call('ZREM', KEYS[4], request)
    end
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text(now - kept))

local function promise_of(n) return tonumber(redis.call('ZSCORE', KEYS[2], key .. '#' .. n)) end
local mine = promise_of(number)
local is_due = mine and mine <= now
local used = redis.call('ZCARD', KEYS[1])
local spoken_for = 0
if not is_due then -- those who were promised a slot about now go first
    spoken_for = redis.call('ZCOUNT', KEYS[2], text(now - per), text(now + per))
    if mine and mine <= now + per then spoken_for = spoken_for - 1 end
end
if limit - used > spoken_for then
    if ARGV[1] == '' then return '-1' end
    redis.call('ZADD', KEYS[1], text(now + math.min(held, per / 2)), ARGV[1])
    redis.call('ZADD', KEYS[4], text(now + takes), ARGV[1])
    local live_for = math.max(redis.call('PTTL', KEYS[4]), math.ceil((takes + per) / 1000) + 1000)
    redis.call('PEXPIRE', KEYS[1], live_for)
    redis.call('PEXPIRE', KEYS[4], live_for)
    redis.call('ZREM', KEYS[2], key .. '#' .. number)
    return '-1'
end

-- A slot is free again after `cycle`: its window, the way of its request, and being rung late.
local cycle = per + lateness + held

local function first_free() -- for one whose slot was there and is not: before the tail
    for i = 0, used - 1 do
        local free_at = redis.call('ZRANGE', KEYS[1], i, i, 'WITHSCORES')[2] + per
        if redis.call('ZCOUNT', KEYS[2], '(' .. text(now), text(free_at)) <= i then
            return free_at
        end
    end
end

local function tail() -- behind everybody: the limit-th slot before this one, one cycle later
    local live = redis.call('ZCOUNT', KEYS[2], text(now - per), '+inf')
    local at = now
    if live >= limit then
        at = redis.call('ZREVRANGE', KEYS[2], limit - 1, limit - 1, 'WITHSCORES')[2] + cycle
    elseif used + live >= limit then
        local i = used + live - limit
        at = redis.call('ZRANGE', KEYS[1], i, i, 'WITHSCORES')[2] + cycle
    end
    if live > 0 then
        local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
        at = math.max(at, last + cycle / limit)
    end
    return math.max(at, now)
end

local at = now
for n = 1, number do
    local known = promise_of(n)
    if not known or known <= now then
        known = known and first_free() or tail()
        redis.call('ZADD', KEYS[2], text(known), key .. '#' .. n)
    end
    at = math.max(at, known)
end
redis.call('PEXPIRE', KEYS[2], math.ceil((at - now + kept) / 1000))
return text(at - now)
"""
)

_LANDED: Final = (
    _CLOCK
    + """
-- KEYS    as above
-- ARGV    request, takes (µs), per (µs)
local takes, per = tonumber(ARGV[2]), tonumber(ARGV[3])
local given_up = tonumber(redis.call('ZSCORE', KEYS[4], ARGV[1]) or now)
local took = math.max(0, math.min(takes, now - given_up + takes))
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZADD', KEYS[1], text(now), ARGV[1])
redis.call('PEXPIRE', KEYS[1], math.max(redis.call('PTTL', KEYS[1]), math.ceil(per / 1000) + 1000))
local held = tonumber(redis.call('GET', KEYS[3]) or took)
redis.call('SET', KEYS[3], text(held + (took - held) / 8), 'PX', 60000)
"""
)

_GIVEN_BACK: Final = """
-- KEYS    as above; ARGV request
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
"""


class SharedRate:
    """The rate of one name on one server."""

    def __init__(self, server: SharedServer, name: str, rate: Rate) -> None:
        self._server, self._name = server, name
        self._limit = rate.limit
        self._per = per = _us(rate.per)
        lateness = min(_us(LATENESS), per // 30)
        self._values = [rate.limit, per, lateness, _us(KEPT)]
        base = f"{server.prefix}{{rate.{name}}}"
        self._keys = [
            base,
            f"{base}.promised",
            f"{base}.held",
            f"{base}.under_way",
            f"{base}.clock",
        ]
        self._take = server.script(_TAKE)
        self._landed = server.script(_LANDED)
        self._given_back = server.script(_GIVEN_BACK)

    def take(self, request: Request) -> str:
        """Take a slot and return its name.

        Raises:
            NotLetThrough: ``rate_reached``; with the moment at which a slot is kept.
            DefinitionError: an attempt sends more requests than one window has slots, so that none
                would ever come to its end.
        """
        if request.number > self._limit:
            raise DefinitionError(
                f"one attempt sends {request.number} requests to {self._name}, and its rate lets "
                f"{self._limit} through at once: agree on a longer window"
            )
        name = uuid.uuid4().hex
        of_request: list[str | float] = [name, request.key, request.number, _us(request.takes)]
        answer: Any = self._server.run(self._take, self._keys, [*of_request, *self._values])
        if answer is None or int(answer) < 0:
            return name
        raise NotLetThrough(
            f"the rate agreed with {self._name} is reached",
            code="rate_reached",
            retry_after=timedelta(microseconds=int(answer)),
            is_exact=True,
        )

    def pause(self, key: str) -> timedelta | None:
        """Return when a slot is kept for the first request of `key`, or None: there may be one now.

        What is kept is found by `take`, and by another `pause`.
        """
        answer: Any = self._server.run(self._take, self._keys, ["", key, 1, 0, *self._values])
        if answer is None or int(answer) < 0:
            return None
        return timedelta(microseconds=int(answer))

    def landed(self, name: str, request: Request) -> None:
        """Say that the request of a slot has arrived: it was answered, or never will be."""
        self._server.run(self._landed, self._keys, [name, _us(request.takes), self._per])

    def give_back(self, name: str) -> None:
        """Free a slot whose request was not sent."""
        self._server.run(self._given_back, self._keys, [name])


def _us(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)
