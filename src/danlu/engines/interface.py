"""What every engine can do: answer conversations, stream one answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from danlu.data.records import Message


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        max_new_tokens: longest answer in tokens.
        temperature: 0 takes the likeliest token each time (greedy).
        top_p: smallest set of tokens with this probability, where temperature > 0.
        seed: of the choices, where temperature > 0.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """One generated answer.

    Attributes:
        ids: token ids, the stop token last if one was generated.
        text: the answer without its stop token.
        finish: "stop" at a stop token, "length" at `max_new_tokens`.
    """

    ids: tuple[int, ...]
    text: str
    finish: Literal["stop", "length"]


class Engine(Protocol):
    """Answers conversations with the tuned model, or with its base."""

    def generate(
        self, conversations: Sequence[Sequence[Message]], sampling: Sampling, tuned: bool = True
    ) -> list[Answer]:
        """One answer for each conversation, in the same order."""
        ...

    def stream(self, messages: Sequence[Message], sampling: Sampling, tuned: bool = True) -> Iterator[str]:
        """The pieces of one answer as they are made."""
        ...
