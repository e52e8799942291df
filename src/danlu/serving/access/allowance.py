"""How much a key may ask: counted over windows of the clock, by all gateways together where they share a Redis.

What an answer may cost at most is taken before it begins, and what it did not need is given back: so requests that run
at once never go over the quota together. While Redis is away each gateway goes on with what it has counted itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from danlu.serving.access.keys import Key
from danlu.serving.redis_link import RedisLink

MINUTE, DAY = 60, 24 * 3600

# Redis' own clock decides, so gateways whose clocks differ count the same window. The quota is a hash of two numbers.
_TAKE = """
local now = tonumber(redis.call('TIME')[1])
local length, amount, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local window = math.floor(now / length)
local used = 0
if tonumber(redis.call('HGET', KEYS[1], 'window') or '-1') == window then
  used = tonumber(redis.call('HGET', KEYS[1], 'used'))
end
local fits = used + amount <= limit
if fits then
  redis.call('HSET', KEYS[1], 'window', window, 'used', used + amount)
  redis.call('EXPIRE', KEYS[1], length)
end
return {fits and 1 or 0, window, (window + 1) * length - now}
"""
_GIVE_BACK = """
if tonumber(redis.call('HGET', KEYS[1], 'window') or '-1') == tonumber(ARGV[1]) then
  redis.call('HINCRBY', KEYS[1], 'used', -tonumber(ARGV[2]))
end
return 1
"""


@dataclass(frozen=True)
class Taken:
    """What was taken of a quota, or that there was not enough.

    Attributes:
        fits: whether it was taken.
        window: number of the window, counted from 1970.
        seconds_left: until the next window.
    """

    fits: bool
    window: int
    seconds_left: int


class LocalCounts:
    """What this process has counted.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._used: dict[str, tuple[int, int]] = {}

    def take(self, name: str, length: int, amount: int, limit: int | None) -> Taken:
        """Takes so much of a quota, if it is left; without a limit always."""
        now = int(self._clock())
        window = now // length
        before, used = self._used.get(name, (window, 0))
        used = used if before == window else 0
        fits = limit is None or used + amount <= limit
        if fits:
            self._used[name] = (window, used + amount)
        return Taken(fits, window, (window + 1) * length - now)

    def give_back(self, name: str, window: int, amount: int) -> None:
        """Was not needed; of a window that is over nothing is left to give back."""
        before, used = self._used.get(name, (window, 0))
        if before == window:
            self._used[name] = (window, max(0, used - amount))


class Allowance:
    """The quotas of all keys.

    Args:
        link: to the Redis that gateways share, or None.
        local: what this process counts.
    """

    def __init__(self, link: RedisLink | None = None, local: LocalCounts | None = None) -> None:
        self._link, self._local = link, local or LocalCounts()
        self._giving: set[asyncio.Task[None]] = set()

    async def take_request(self, key: Key) -> Taken | None:
        """One request; None where any number may be made."""
        if key.requests_per_minute is None:
            return None
        return await self._take(f"requests:{key.id}", MINUTE, 1, key.requests_per_minute)

    async def take_tokens(self, key: Key, amount: int) -> Taken | None:
        """So many tokens; None where any number may be asked."""
        if key.tokens_per_day is None:
            return None
        return await self._take(f"tokens:{key.id}", DAY, amount, key.tokens_per_day)

    def give_tokens_back(self, key: Key, taken: Taken, amount: int) -> None:
        """Tokens that were taken and not needed; nobody waits for it. Call it in the gateway's loop."""
        if amount > 0:
            task = asyncio.ensure_future(self._give_back(f"tokens:{key.id}", taken.window, amount))
            self._giving.add(task)
            task.add_done_callback(self._giving.discard)

    async def _take(self, name: str, length: int, amount: int, limit: int) -> Taken:
        told = None
        if self._link is not None:
            told = await self._link.ask(lambda redis: redis.eval(_TAKE, 1, _place(name), length, amount, limit))
        if told is None:
            return self._local.take(name, length, amount, limit)
        taken = Taken(bool(told[0]), int(told[1]), int(told[2]))
        if taken.fits:
            self._local.take(name, length, amount, None)
        return taken

    async def _give_back(self, name: str, window: int, amount: int) -> None:
        self._local.give_back(name, window, amount)
        if self._link is not None:
            await self._link.ask(lambda redis: redis.eval(_GIVE_BACK, 1, _place(name), window, amount))


def _place(name: str) -> str:
    return f"danlu:quota:1:{name}"
