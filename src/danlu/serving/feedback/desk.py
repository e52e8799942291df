"""Takes feedback on an answer: finds what was asked, masks personal data, and gives all of it to the store."""

from __future__ import annotations

import uuid
from typing import Any

from danlu.data.privacy import Masker
from danlu.serving.access.keys import now_text
from danlu.serving.feedback.recent import Exchange, RecentAnswers
from danlu.serving.feedback.stores import FeedbackStore
from danlu.serving.protocol import FeedbackGiven
from danlu.serving.redis_link import RedisLink


class FeedbackDesk:
    """One gateway's.

    Args:
        store: keeps what is given.
        link: to the Redis of all gateways, or None.
    """

    def __init__(self, store: FeedbackStore, link: RedisLink | None = None) -> None:
        self.store = store
        self._masker = Masker(mode="placeholder")
        self._recent = RecentAnswers(lambda texts: self._masker.mask(texts).texts, link)

    def remember(self, exchange: Exchange) -> None:
        """An answer that was given. Call it in the gateway's loop."""
        self._recent.remember(exchange)

    async def find(self, id: str, owner: str) -> Exchange | None:
        """The answer, if the same key asked for it."""
        found = await self._recent.find(id)
        return found if found is not None and found.owner == owner else None

    def keep(self, exchange: Exchange, given: FeedbackGiven) -> dict[str, Any]:
        """Masks and keeps; once this ends it is on the disk.

        Returns:
            What was kept.

        Raises:
            OSError: it can't be.
        """
        own = [given.correction or "", given.comment or "", *given.tags]
        masked = self._masker.mask([*exchange.texts(), *own])
        asked = exchange.with_texts(masked.texts)
        correction, comment, *tags = masked.texts[len(exchange.texts()) :]
        record = {
            "id": uuid.uuid4().hex,
            "time": now_text(),
            "answer": exchange.id,
            "key": exchange.owner,
            "model": exchange.model,
            "version": exchange.hash,
            "messages": list(asked.messages),
            "said": asked.said,
            "rating": given.rating,
            "correction": correction or None,
            "comment": comment or None,
            "tags": tags,
            "masked": masked.counts,
        }
        self.store.add(record)
        return record
