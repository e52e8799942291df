"""The answers of the last day, so that feedback on one finds its question.

This process keeps them as they are, in memory; other gateways find them in Redis, where personal data is masked.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from danlu.serving.redis_link import RedisLink

_KEPT_SECONDS = 24 * 3600
_PLACE = "danlu:exchange:1:"
_OBJECTS_BYTES = 2048  # about what the objects of one exchange take beside its texts


@dataclass(frozen=True)
class Exchange:
    """A question and its answer.

    Attributes:
        id: of the answer.
        owner: id of the key that asked.
        model: version that answered, as in `law@3`.
        hash: of that version.
        messages: that were asked.
        said: the answer.
    """

    id: str
    owner: str
    model: str
    hash: str
    messages: Sequence[Any]
    said: str = ""

    def texts(self) -> list[str]:
        """All that was said, the answer last."""
        return [*(str(message["content"]) for message in self.messages), self.said]

    def with_texts(self, texts: Sequence[str]) -> Exchange:
        """The same with other texts, in the order of `texts()`."""
        turns = [{**turn, "content": text} for turn, text in zip(self.messages, texts, strict=False)]
        return replace(self, messages=turns, said=texts[len(turns)])


class RecentAnswers:
    """Finds answers by their ids.

    Args:
        mask: replaces personal data in texts, before they leave this process.
        link: to the Redis of all gateways, or None.
        max_bytes: that stay in memory, some seven thousand short answers.
    """

    def __init__(
        self, mask: Callable[[Sequence[str]], list[str]], link: RedisLink | None = None, max_bytes: int = 16 << 20
    ) -> None:
        self._mask, self._link, self._max_bytes = mask, link, max_bytes
        self._kept: OrderedDict[str, tuple[Exchange, int]] = OrderedDict()
        self._num_bytes = 0
        self._sharing: set[asyncio.Task[None]] = set()

    def remember(self, exchange: Exchange) -> None:
        """Keeps an answer; nobody waits for Redis. Call it in the gateway's loop."""
        size = sum(map(len, exchange.texts())) * 4 + _OBJECTS_BYTES
        self._kept[exchange.id] = (exchange, size)
        self._num_bytes += size
        while self._num_bytes > self._max_bytes:
            self._num_bytes -= self._kept.popitem(last=False)[1][1]
        if self._link is not None:
            task = asyncio.ensure_future(self._share(exchange))
            self._sharing.add(task)
            task.add_done_callback(self._sharing.discard)

    async def find(self, id: str) -> Exchange | None:
        """The answer, if it is not forgotten."""
        if id in self._kept:
            return self._kept[id][0]
        told = await self._link.ask(lambda redis: redis.get(_PLACE + id)) if self._link is not None else None
        try:
            return None if told is None else Exchange(**json.loads(told))
        except (ValueError, TypeError):
            return None

    async def _share(self, exchange: Exchange) -> None:
        assert self._link is not None
        texts = await asyncio.to_thread(self._mask, exchange.texts())
        value = json.dumps(asdict(exchange.with_texts(texts)))
        await self._link.ask(lambda redis: redis.set(_PLACE + exchange.id, value, ex=_KEPT_SECONDS))
