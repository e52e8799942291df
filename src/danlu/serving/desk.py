"""What the gateway works with, and who is being served."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from danlu.engines.batching import Ask
from danlu.engines.interface import Answer
from danlu.errors import DanluError
from danlu.serving.answer_cache import AnswerCache
from danlu.serving.metrics import Metrics
from danlu.serving.routing import Routes
from danlu.serving.shelf import Lease, Shelf
from danlu.serving.streams import Answers, Kept, Stream
from danlu.tracking.progress import say


class Desk:
    """One gateway's engine, adapters and rules.

    Attributes:
        draining: whether new requests are refused.
        visits: requests that are being answered.
        began: when, in seconds since 1970.

    Args:
        engine: that answers.
        shelf: of adapters.
        routes: of virtual models.
        max_new_tokens: of an answer, where a request does not say.
        cache: of answers; None: every answer is made.
    """

    def __init__(
        self,
        engine: Answers,
        shelf: Shelf,
        routes: Routes,
        max_new_tokens: int = 1024,
        cache: AnswerCache | None = None,
    ) -> None:
        self.cache = cache
        self.engine, self.shelf, self.routes, self.max_new_tokens = engine, shelf, routes, max_new_tokens
        self.metrics = Metrics(self._gauges, engine.figures)
        self.draining = False
        self.visits = 0
        self.began = int(time.time())

    def watch(self, every_seconds: float, stop: threading.Event) -> None:
        """Looks for other versions now and then, until it is told to stop."""
        said = ""
        while True:
            try:
                self.shelf.refresh()
                self.shelf.make_room()
                said = ""
            except DanluError as error:
                if said != (said := error.faults[0].what):
                    say(f"warning: the adapters can't be looked up, those that are served stay: {said}")
            if stop.wait(every_seconds):
                return

    def _gauges(self) -> dict[str, float]:
        return {
            "running_answers": self.engine.running,
            "waiting_questions": self.engine.waiting,
            "adapters_loaded": len(self.shelf.loaded),
            "adapters_refused": len(self.shelf.faults),
        }


class Visit:
    """One request, from its beginning to its end; `close` gives back what it holds, once.

    Attributes:
        passed_on: whether a server of its own answers.

    Args:
        desk: None: nothing is held.
    """

    def __init__(self, desk: Desk | None) -> None:
        self.desk = desk
        self.lease: Lease | None = None
        self.stream: Stream | Kept | None = None
        self.key: str | None = None
        self.passed_on = False
        self._done = False
        if desk is not None:
            desk.visits += 1

    async def begin(self, ask: Ask, seeded: bool) -> None:
        """Begins the answer: by the engine, or with what was kept of an earlier one.

        Args:
            ask: the question.
            seeded: whether who asks gave the seed.
        """
        assert self.desk is not None
        assert self.lease is not None
        cache = self.desk.cache
        self.key = cache.key(self.lease, ask, seeded) if cache is not None else None
        kept = await cache.get(self.key) if cache is not None and self.key is not None else None
        if self.key is not None:
            self.desk.metrics.cache.labels("miss" if kept is None else "hit").inc()
        self.stream = Stream(self.desk.engine, ask) if kept is None else Kept(ask, kept)

    @property
    def was_kept(self) -> bool:
        """Whether the answer was made before."""
        return isinstance(self.stream, Kept)

    def note(self, answer: Answer) -> None:
        """The answer came to its end."""
        assert self.desk is not None
        assert self.stream is not None
        ticket = self.stream.ticket
        counted = {"prompt": len(ticket.ask.prompt), "reused": ticket.reused, "answer": len(answer.ids)}
        self.count(answer.finish, counted, self.stream.first or 0.0, self.stream.began)
        if self.desk.cache is not None and self.key is not None and not self.was_kept:
            self.desk.cache.put(self.key, answer)

    def count(self, finish: str, tokens: Mapping[str, int], first_seconds: float, began: float) -> None:
        """Counts an answer that came to its end.

        Args:
            finish: why it ended.
            tokens: of its prompt, those reused, and of the answer.
            first_seconds: until its first token.
            began: when, as `time.perf_counter` says.
        """
        assert self.desk is not None
        assert self.lease is not None
        self._done = True
        metrics, label = self.desk.metrics, self.lease.label
        metrics.answers.labels(label, finish).inc()
        for kind, count in tokens.items():
            metrics.tokens.labels(label, kind).inc(count)
        metrics.first_token.observe(first_seconds)
        metrics.seconds.observe(time.perf_counter() - began)

    def close(self) -> None:
        """The request has ended, whatever came of it."""
        if self.desk is None:
            return
        if (self.stream is not None or self.passed_on) and not self._done:
            if self.stream is not None:
                self.stream.cancel()
            self.desk.metrics.answers.labels(self.lease.label if self.lease else "", "abandoned").inc()
        if self.lease is not None:
            self.desk.shelf.give_back(self.lease)
        self.desk.visits -= 1
        self.desk = None
