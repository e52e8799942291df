"""A Redis that may come and go: few requests wait for it, a quarter of a second at most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from danlu.errors import Fault, InputError, ResourceError

_PATIENCE_SECONDS, _AWAY_SECONDS = 0.25, 2.0


class RedisLink:
    """What all that is kept in Redis goes through.

    Args:
        url: as `redis://HOST:PORT/0`, `rediss://` or `unix://`.

    Attributes:
        on_fault: is called each time it could not be asked.

    Raises:
        InputError: the URL is none of Redis.
        ResourceError: the library is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            import redis.asyncio as redis
        except ImportError as error:
            raise ResourceError(Fault("redis is not installed", hint="pip install 'danlu[serve]'")) from error
        options: Any = {"socket_timeout": _PATIENCE_SECONDS, "socket_connect_timeout": _PATIENCE_SECONDS}
        try:
            self._redis: Any = redis.Redis.from_url(url, **options)
        except ValueError as error:
            allowed = "redis://HOST:PORT/0, rediss://, unix://"
            raise InputError(Fault(f"this is no address of Redis: {error}", "--redis", allowed)) from error
        self._faults, self._away_until = redis.RedisError, 0.0
        self.on_fault: Callable[[], None] = lambda: None

    async def ask(self, call: Callable[[Any], Any]) -> Any:
        """What Redis answers; None if it is away, or has nothing.

        Args:
            call: takes the client, and gives what to wait for.
        """
        if time.monotonic() < self._away_until:
            return None
        try:
            return await asyncio.wait_for(call(self._redis), _PATIENCE_SECONDS)
        except (self._faults, OSError, asyncio.TimeoutError):
            self._away_until = time.monotonic() + _AWAY_SECONDS
            self.on_fault()
            return None
