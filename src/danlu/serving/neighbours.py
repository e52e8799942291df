"""The gateways that share a Redis: each leaves its figures there, so that any of them can show all."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from danlu.serving.redis_link import RedisLink

_EVERY_SECONDS, _GONE_SECONDS = 2.0, 10
_PLACE = "danlu:gateways:1"


class Neighbours:
    """This gateway's figures, and those of the others.

    Args:
        name: of this gateway.
        figures: in Prometheus' text format.
        link: to the Redis that they share; None: this gateway is alone.
    """

    def __init__(self, name: str, figures: Callable[[], bytes], link: RedisLink | None = None) -> None:
        self._name, self._figures, self._link = name, figures, link

    async def tell(self) -> None:
        """Leaves this gateway's figures every other second, for ever."""
        while self._link is not None:
            told = json.dumps({"time": time.time(), "metrics": self._figures().decode()})
            await self._link.ask(partial(_leave, self._name, told))
            await asyncio.sleep(_EVERY_SECONDS)

    async def all(self) -> dict[str, str]:
        """Each gateway's figures by its name; this one's are of now, and of one that has ended there are none."""
        found: dict[str, str] = {}
        if self._link is not None:
            told = await self._link.ask(lambda redis: redis.hgetall(_PLACE)) or {}
            for name, text in told.items():
                left = json.loads(text)
                if time.time() - left["time"] < _GONE_SECONDS:
                    found[name.decode()] = left["metrics"]
                else:
                    await self._link.ask(partial(_forget, name))
        found[self._name] = self._figures().decode()
        return dict(sorted(found.items()))


def _leave(name: str, told: str, redis: Any) -> Any:
    return redis.hset(_PLACE, name, told)


def _forget(name: bytes, redis: Any) -> Any:
    return redis.hdel(_PLACE, name)
