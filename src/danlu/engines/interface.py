"""What every engine can do: answer conversations, stream one answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from danlu.data.records import Message

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        max_new_tokens: longest answer in tokens.
        temperature: 0 takes the likeliest token each time (greedy).
        top_p: smallest set of tokens with this probability, where temperature > 0.
        seed: of the choices, where temperature > 0.
        top_k: so many of the likeliest tokens, where temperature > 0; 0: all.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top_k: int = 0


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


@dataclass(frozen=True)
class NextTokens:
    """What an engine says of the next token before each token of a given answer. A answer tokens, K tokens asked about.

    Attributes:
        likeliest: `[A]` the likeliest next token.
        log_probabilities: `[A, K]` of the tokens asked about, float32, in nats; NaN where the engine does not tell,
            as one that names only its likeliest tokens does not.
    """

    likeliest: torch.Tensor
    log_probabilities: torch.Tensor


class ScoringEngine(Engine, Protocol):
    """An engine that can also be asked how likely given tokens are: what the parity gate needs.

    Attributes:
        stop_ids: tokens at which the engine itself ends an answer.
    """

    stop_ids: list[int]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """A conversation's prompt, through the engine's own template and tokenizer."""
        ...

    def next_tokens(self, prompt: Sequence[int], answer: Sequence[int], asked: torch.Tensor) -> NextTokens:
        """How likely the tokens `asked` `[A, K]` are before each of the A tokens of an answer that is given."""
        ...
