"""Answers that would be the same again, kept: in this process, and in Redis for all gateways that share one.

A key is made of all that an answer depends on, the version's hash among it, so what is kept never gets old. Redis may
come and go: without it this process' own answers are used, and few requests wait for it, a quarter of a second at most.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from danlu.engines.batching import Ask
from danlu.engines.interface import Answer
from danlu.errors import Fault, InputError, ResourceError
from danlu.serving.shelf import Lease

_KEY_ABOUT = "danlu:answer:1:"
_KEPT_SECONDS = 7 * 24 * 3600
_PATIENCE_SECONDS, _AWAY_SECONDS = 0.25, 2.0


class LocalAnswers:
    """The answers that were asked for last, up to so many bytes.

    Args:
        max_bytes: of keys and answers; 0: none are kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """What was put there, if it still is."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: str, value: bytes) -> None:
        """Keeps it, and lets go of what was not asked for longest."""
        with self._lock:
            before = self._kept.pop(key, None)
            self.num_bytes -= len(key) + len(before) if before is not None else 0
            self._kept[key] = value
            self.num_bytes += len(key) + len(value)
            while self.num_bytes > self.max_bytes:
                gone, old = self._kept.popitem(last=False)
                self.num_bytes -= len(gone) + len(old)


class RedisAnswers:
    """Answers in Redis, as long as it is there.

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

    async def get(self, key: str) -> bytes | None:
        """What was put there; None if it is not, or if Redis is away."""
        found: bytes | None = await self._try(lambda: self._redis.get(key))
        return found

    async def put(self, key: str, value: bytes) -> None:
        """Keeps it for a week, or less if Redis needs the room."""
        await self._try(lambda: self._redis.set(key, value, ex=_KEPT_SECONDS))

    async def _try(self, call: Callable[[], Any]) -> Any:
        if time.monotonic() < self._away_until:
            return None
        try:
            return await asyncio.wait_for(call(), _PATIENCE_SECONDS)
        except (self._faults, OSError, asyncio.TimeoutError):
            self._away_until = time.monotonic() + _AWAY_SECONDS
            self.on_fault()
            return None


class AnswerCache:
    """What the gateway asks before the engine.

    Args:
        engine: what else answers depend on: how the base is computed.
        local: of this process.
        shared: of all gateways, or None.
    """

    def __init__(self, engine: str, local: LocalAnswers, shared: RedisAnswers | None = None) -> None:
        self._engine, self._local, self._shared = engine, local, shared
        self._putting: set[asyncio.Task[None]] = set()

    def key(self, lease: Lease, ask: Ask, seeded: bool) -> str | None:
        """Of an answer; None where another try would give another one, or probabilities were asked for.

        Args:
            lease: the version.
            ask: the question.
            seeded: whether who asks gave the seed.
        """
        sampling = ask.sampling
        if ask.num_likeliest is not None or not (seeded or sampling.temperature == 0):
            return None
        if sampling.temperature == 0:
            sampling = replace(sampling, seed=0, top_p=1.0, top_k=0)
        parts = [self._engine, lease.hash, ask.prompt, asdict(sampling), ask.stop]
        return _KEY_ABOUT + hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    async def get(self, key: str) -> Answer | None:
        """The answer, if it is kept."""
        found = self._local.get(key)
        if found is None and self._shared is not None:
            found = await self._shared.get(key)
            if found is not None:
                self._local.put(key, found)
        return None if found is None else _read(key, found)

    def put(self, key: str, answer: Answer) -> None:
        """Keeps an answer; nobody waits for Redis. Call it in the gateway's loop."""
        value = json.dumps([key, answer.ids, answer.text, answer.finish]).encode()
        self._local.put(key, value)
        if self._shared is not None:
            task = asyncio.ensure_future(self._shared.put(key, value))
            self._putting.add(task)
            task.add_done_callback(self._putting.discard)


def _read(key: str, value: bytes) -> Answer | None:
    """The answer; None if it is not what was put there."""
    try:
        own, ids, text, finish = json.loads(value)
        return None if own != key else Answer(tuple(map(int, ids)), str(text), "stop" if finish == "stop" else "length")
    except (ValueError, TypeError):
        return None
