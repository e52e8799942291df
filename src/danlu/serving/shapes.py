"""Answers in OpenAI's two forms, whole or in pieces."""

from __future__ import annotations

import abc
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from danlu.engines.batching import Ticket
from danlu.engines.drawing import Token
from danlu.engines.interface import Answer
from danlu.serving.shelf import Lease


@dataclass
class Shape(abc.ABC):
    """One answer's form.

    Args:
        lease: says which version answers.
        tokenizer: writes single tokens.
    """

    lease: Lease
    tokenizer: Any
    created: int = field(default_factory=lambda: int(time.time()))
    number: str = field(default_factory=lambda: uuid.uuid4().hex)
    prefix, whole_object, part_object = "", "", ""

    @property
    def id(self) -> str:
        """The answer's."""
        return f"{self.prefix}-{self.number}"

    def envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """What surrounds an answer or a piece of it."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.lease.label,
            "system_fingerprint": f"danlu-{self.lease.hash[:16]}",
            "choices": choices,
        }

    def whole(self, answer: Answer, tokens: Sequence[Token], asked: bool, ticket: Ticket) -> dict[str, Any]:
        """The whole answer."""
        choice = {
            "index": 0,
            "logprobs": self.probabilities(tokens) if asked else None,
            "finish_reason": answer.finish,
            **self.message(answer.text),
        }
        return {**self.envelope(self.whole_object, [choice]), "usage": usage_of(answer, ticket)}

    def part(self, text: str, tokens: Sequence[Token], asked: bool, finish: str | None) -> dict[str, Any]:
        """A piece of it."""
        choice = {
            "index": 0,
            "logprobs": self.probabilities(tokens) if asked and tokens else None,
            "finish_reason": finish,
            **self.delta(text),
        }
        return self.envelope(self.part_object, [choice])

    def first(self) -> list[dict[str, Any]]:
        """What comes before the pieces."""
        return []

    def written(self, token: int) -> str:
        """One token as text."""
        text: str = self.tokenizer.decode([token])
        return text

    @abc.abstractmethod
    def message(self, text: str) -> dict[str, Any]:
        """The answer's text in its place."""

    @abc.abstractmethod
    def delta(self, text: str) -> dict[str, Any]:
        """A piece's text in its place."""

    @abc.abstractmethod
    def probabilities(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """How likely the tokens were."""


class ChatShape(Shape):
    """Of `/v1/chat/completions`."""

    prefix, whole_object, part_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def first(self) -> list[dict[str, Any]]:
        """The role, before any text."""
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return [self.envelope(self.part_object, [choice])]

    def message(self, text: str) -> dict[str, Any]:
        """An assistant's message."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def delta(self, text: str) -> dict[str, Any]:
        """What is added to it."""
        return {"delta": {"content": text} if text else {}}

    def probabilities(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """For each token its text, bytes, log-probability, and those of the likeliest ones."""
        described = [
            {
                **self._described(token.id, token.log_probability),
                "top_logprobs": [self._described(*pair) for pair in token.likeliest],
            }
            for token in tokens
        ]
        return {"content": described, "refusal": None}

    def _described(self, token: int, log_probability: float | None) -> dict[str, Any]:
        text = self.written(token)
        return {"token": text, "logprob": log_probability, "bytes": list(text.encode())}


class TextShape(Shape):
    """Of `/v1/completions`."""

    prefix, whole_object, part_object = "cmpl", "text_completion", "text_completion"

    def message(self, text: str) -> dict[str, Any]:
        """The text alone."""
        return {"text": text}

    def delta(self, text: str) -> dict[str, Any]:
        """The text alone."""
        return {"text": text}

    def probabilities(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """The tokens' texts, log-probabilities, likeliest ones, and places in the text of these tokens."""
        texts = [self.written(token.id) for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [token.log_probability for token in tokens],
            "top_logprobs": [{self.written(one): value for one, value in token.likeliest} for token in tokens],
            "text_offset": [sum(map(len, texts[:place])) for place in range(len(texts))],
        }


def usage_of(answer: Answer, ticket: Ticket) -> dict[str, Any]:
    """Tokens of one answer; cached are those of the prompt that were not read again."""
    prompt, made = len(ticket.ask.prompt), len(answer.ids)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": ticket.reused},
    }


def event(content: Any) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(content)}\n\n"
