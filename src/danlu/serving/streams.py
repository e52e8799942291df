"""Answers between the engine's thread and the gateway's loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

from danlu.data.records import Message
from danlu.engines.batching import Ask, Piece, Ticket
from danlu.engines.interface import Answer


class Answers(Protocol):
    """What the gateway needs of an engine.

    Attributes:
        tokenizer: of the model.
        max_context: tokens of a prompt and its answer.
    """

    tokenizer: Any
    max_context: int

    @property
    def running(self) -> int:
        """Answers that are being made."""
        ...

    @property
    def waiting(self) -> int:
        """Questions that wait."""
        ...

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """A conversation's prompt."""
        ...

    def submit(self, ask: Ask, listener: Callable[[Piece], None]) -> Ticket:
        """Takes a question; the listener is told each piece, in any thread."""
        ...

    def figures(self) -> dict[str, int]:
        """What it has done."""
        ...


class Stream:
    """One answer, piece by piece, for the loop that makes it.

    Args:
        engine: that answers.
        ask: the question.

    Attributes:
        num_tokens: of the answer, so far.

    Raises:
        DanluError: the engine does not take it.
    """

    def __init__(self, engine: Answers, ask: Ask) -> None:
        self.ask = ask
        self.began = time.perf_counter()
        self.first: float | None = None
        self.num_tokens = 0
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(piece: Piece) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, nobody listens
                loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

        self.ticket = engine.submit(ask, tell)

    async def next(self) -> Piece:
        """The next piece.

        Raises:
            DanluError: what ended the answer.
        """
        piece = await self._pieces.get()
        if piece.error is not None:
            raise piece.error
        if self.first is None:
            self.first = time.perf_counter() - self.began
        self.num_tokens += len(piece.tokens)
        return piece

    async def pieces(self) -> AsyncIterator[Piece]:
        """All pieces that follow, the last one with the whole answer."""
        while True:
            piece = await self.next()
            yield piece
            if piece.answer is not None:
                return

    def cancel(self) -> None:
        """Nobody listens any more."""
        self.ticket.cancel()


class Kept:
    """An answer that was made before, as a stream of one piece.

    Args:
        ask: the question.
        answer: to it.
    """

    def __init__(self, ask: Ask, answer: Answer) -> None:
        self.ask, self.began, self.first, self.num_tokens = ask, time.perf_counter(), 0.0, len(answer.ids)
        self.ticket = Ticket(ask, reused=len(ask.prompt))
        self._piece = Piece(answer.text, (), answer)

    async def next(self) -> Piece:
        """The whole answer."""
        return self._piece

    async def pieces(self) -> AsyncIterator[Piece]:
        """The whole answer."""
        yield self._piece

    def cancel(self) -> None:
        """There is nothing to end."""


async def unless_gone(receive: Callable[[], Awaitable[Any]], work: Awaitable[Any]) -> Any:
    """What the work gives; None, and the work is ended, if the client leaves before."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
