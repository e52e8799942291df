"""What the gateway works with, and who is being served."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace

from danlu.engines.batching import Ask
from danlu.engines.interface import Answer
from danlu.errors import DanluError
from danlu.serving.access.allowance import Taken
from danlu.serving.access.guard import refuse_over
from danlu.serving.access.journal import Account
from danlu.serving.answer_cache import AnswerCache
from danlu.serving.feedback.recent import Exchange
from danlu.serving.metrics import Metrics
from danlu.serving.neighbours import Neighbours
from danlu.serving.refusals import Refusal
from danlu.serving.routing import Routes
from danlu.serving.shelf import Lease, Shelf
from danlu.serving.streams import Answers, Kept, Stream
from danlu.serving.surroundings import Surroundings
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
        around: who may come in, and what is noted.
    """

    def __init__(
        self,
        engine: Answers,
        shelf: Shelf,
        routes: Routes,
        max_new_tokens: int = 1024,
        cache: AnswerCache | None = None,
        around: Surroundings | None = None,
    ) -> None:
        around = around or Surroundings()
        self.cache, self.guard, self.feedback, self.name = cache, around.guard, around.feedback, around.name
        self.engine, self.shelf, self.routes, self.max_new_tokens = engine, shelf, routes, max_new_tokens
        self.metrics = Metrics(self._gauges, engine.figures)
        self.neighbours = Neighbours(self.name, self.metrics.text, around.link)
        self.draining = False
        self.visits = 0
        self.began = int(time.time())

    @property
    def status(self) -> str:
        """Whether requests should be sent here: `ok`, `loading` or `draining`."""
        return "draining" if self.draining else "ok" if self.shelf.ready else "loading"

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

    Args:
        desk: None: nothing is held.
        account: of the request.

    Attributes:
        passed_on: whether a server of its own answers.
        exchange: what was asked, for feedback on its answer.
    """

    def __init__(self, desk: Desk | None, account: Account | None = None) -> None:
        self.desk, self.account = desk, account or Account()
        self.exchange: Exchange | None = None
        self._reserved: tuple[Taken, int] | None = None
        self.lease: Lease | None = None
        self.stream: Stream | Kept | None = None
        self.key: str | None = None
        self.passed_on = False
        self._done = False
        if desk is not None:
            desk.visits += 1

    @property
    def owner(self) -> str:
        """Id of the key that asks."""
        return self.account.key.id if self.account.key else ""

    def require_allowed(self, *names: str) -> None:
        """Requires that the key may ask a model by one of these names.

        Raises:
            Refusal: it may not.
        """
        key = self.account.key
        if key is not None and not any(map(key.may_ask, names)):
            raise Refusal(403, f"this key may not ask {names[0][:100]!r}; it may ask {', '.join(key.models)}", "model")

    async def reserve(self, most: int) -> None:
        """Takes what the answer may need of the key's tokens.

        Args:
            most: tokens of prompt and answer, at most.

        Raises:
            Refusal: so many are not left.
        """
        assert self.desk is not None
        assert self.lease is not None
        self.account.about |= {"model": self.lease.label, "version": self.lease.hash[:16]}
        if (key := self.account.key) is None:
            return
        taken = await self.desk.guard.allowance.take_tokens(key, most)
        if taken is not None:
            refuse_over(taken, f"{key.tokens_per_day} tokens a day, and up to {most} were asked for")
            self._reserved = (taken, most)

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
        self.tell(answer.text)

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
        self._settle(tokens["prompt"] + tokens["answer"])
        told = {"prompt_tokens": tokens["prompt"], "answer_tokens": tokens["answer"], "cached": self.was_kept}
        self.account.about |= {"finish": finish, **told}

    def tell(self, text: str, id: str | None = None) -> None:
        """Remembers the exchange for feedback; the request's entry can be written.

        Args:
            text: of the answer.
            id: that another server gave it.
        """
        assert self.desk is not None
        if self.exchange is not None:
            exchange = replace(self.exchange, said=text, id=id or self.exchange.id)
            self.account.about["answer"] = exchange.id
            journal = self.desk.guard.journal
            if journal is not None and journal.with_texts:
                self.account.about |= {"messages": list(exchange.messages), "said": text}
            if self.desk.feedback is not None:
                self.desk.feedback.remember(exchange)
        self.account.complete = True

    def close(self) -> None:
        """The request has ended, whatever came of it."""
        if self.desk is None:
            return
        if (self.stream is not None or self.passed_on) and not self._done:
            if self.stream is not None:
                self.stream.cancel()
            self.desk.metrics.answers.labels(self.lease.label if self.lease else "", "abandoned").inc()
            self.account.about["finish"] = "abandoned"
        self._settle(len(self.stream.ask.prompt) + self.stream.num_tokens if self.stream is not None else 0)
        if self.lease is not None:
            self.desk.shelf.give_back(self.lease)
        self.desk.visits -= 1
        self.desk = None

    def _settle(self, used: int) -> None:
        """Gives back, once, what was taken of the key's tokens and not used."""
        if self._reserved is not None and self.desk is not None and self.account.key is not None:
            taken, most = self._reserved
            self.desk.guard.allowance.give_tokens_back(self.account.key, taken, most - used)
        self._reserved = None
