"""Answers that would be the same again, kept: in this process, and in Redis for all gateways that share one.

A key is made of all that an answer depends on, the version's hash among it, so what is kept never gets old. Redis may
come and go: without it this process' own answers are used.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import OrderedDict
from dataclasses import asdict, replace

from danlu.engines.batching import Ask
from danlu.engines.interface import Answer
from danlu.serving.redis_link import RedisLink
from danlu.serving.shelf import Lease

_KEY_ABOUT = "danlu:answer:1:"
_KEPT_SECONDS = 7 * 24 * 3600


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
        link: to it.
    """

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def get(self, key: str) -> bytes | None:
        """What was put there; None if it is not, or if Redis is away."""
        found: bytes | None = await self._link.ask(lambda redis: redis.get(key))
        return found

    async def put(self, key: str, value: bytes) -> None:
        """Keeps it for a week, or less if Redis needs the room."""
        await self._link.ask(lambda redis: redis.set(key, value, ex=_KEPT_SECONDS))


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
