"""An engine for tests of the gateway: it answers at once, or holds an answer back until it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from danlu.data.template import prompt_ids
from danlu.engines.batching import Ask, Piece, QueueFull, Ticket
from danlu.engines.drawing import Token
from danlu.engines.interface import Answer
from danlu.errors import Fault, WorkError


class InstantEngine:
    """Answers with the words of a sentence, a piece each.

    Attributes:
        gate: answers wait at it after their first word.
        asked: every question.
        full: refuse questions.
        breaks: answers fail after their first word.
    """

    running = waiting = 0

    def __init__(self, tokenizer: Any, max_context: int = 256) -> None:
        self.tokenizer, self.max_context = tokenizer, max_context
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[Ask] = []
        self.tickets: list[Ticket] = []
        self.full = self.breaks = False

    def prompt_ids(self, messages: Sequence[Any]) -> list[int]:
        return prompt_ids(self.tokenizer, messages)

    def figures(self) -> dict[str, int]:
        return {"steps": len(self.asked)}

    def submit(self, ask: Ask, listener: Callable[[Piece], None]) -> Ticket:
        if self.full:
            raise QueueFull(Fault("128 questions wait already", hint="try again later"))
        ticket = Ticket(ask)
        self.asked.append(ask)
        self.tickets.append(ticket)
        threading.Thread(target=self._answer, args=(ask, listener), daemon=True).start()
        return ticket

    def _answer(self, ask: Ask, listener: Callable[[Piece], None]) -> None:
        words = ["I", " am", f" {ask.adapter or 'the base'}", "."]
        ids = [self.tokenizer(word)["input_ids"][0] for word in words]
        for place, (word, id) in enumerate(zip(words, ids, strict=True)):
            tokens = (Token(id, -0.5, ((id, -0.5),) * (ask.num_likeliest or 0)),)
            if self.breaks and place == 1:
                listener(Piece("", error=WorkError(Fault("the model failed"))))
                return
            answer = Answer(tuple(ids), "".join(words), "stop") if place == len(words) - 1 else None
            listener(Piece(word, tokens, answer))
            self.gate.wait(30)
