"""Perplexity of plain text, by the engine's logits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

_WINDOW_TOKENS = 256


class LogitsEngine(Protocol):
    """An engine that gives next-token logits, as `danlu.engines.transformers_engine.TransformersEngine` does."""

    def logits(self, prompt: Sequence[int], answer: Sequence[int], tuned: bool = True) -> torch.Tensor:
        """`[len(answer), vocabulary]` before each token of the answer."""
        ...


def perplexity(
    engine: LogitsEngine, ids: Sequence[int], tuned: bool = True, window_tokens: int = _WINDOW_TOKENS
) -> float:
    """Exp of the mean negative log-likelihood of a text's tokens after the first; arguments as in `text_loss`."""
    return math.exp(text_loss(engine, ids, tuned, window_tokens) / (len(ids) - 1))


def text_loss(
    engine: LogitsEngine, ids: Sequence[int], tuned: bool = True, window_tokens: int = _WINDOW_TOKENS
) -> float:
    """Negative log-likelihood of a text's tokens after the first, in nats, summed in float64.

    The text is read in windows; each token is predicted from the window before its own and what precedes it in its own:
    between `window_tokens` and twice as many tokens, but for the text's beginning.

    Args:
        engine: of a causal model.
        ids: the text's tokens.
        tuned: the tuned model, or its base.
        window_tokens: predicted at once; the memory that logits take grows with it.
    """
    total = 0.0
    for prompt, answer in _windows(list(ids), window_tokens):
        logits = engine.logits(prompt, answer, tuned)
        chosen = logits.gather(-1, torch.tensor(answer, device=logits.device)[:, None])[:, 0]
        total += (logits.logsumexp(-1) - chosen).double().sum().item()
    return total


def _windows(ids: list[int], window_tokens: int) -> Iterator[tuple[list[int], list[int]]]:
    """Context and what is predicted from it; together, all tokens but the first are predicted once."""
    for start in range(1, len(ids), window_tokens):
        yield ids[max(0, start - window_tokens) : start], ids[start : start + window_tokens]
