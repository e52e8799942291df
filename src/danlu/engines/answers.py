"""What engines share that make token ids themselves: an answer of ids, and how likely tokens are by logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from danlu.data.records import Message
from danlu.engines.interface import Answer, NextTokens
from danlu.errors import Fault, InputError


def to_answer(tokenizer: Any, ids: Sequence[int], stop_ids: Sequence[int]) -> Answer:
    """The answer that generated ids are, up to the first stop token."""
    end = next((place for place, token in enumerate(ids) if token in stop_ids), None)
    text = tokenizer.decode(list(ids[:end]), skip_special_tokens=True)
    kept = ids if end is None else ids[: end + 1]
    return Answer(tuple(kept), text, "length" if end is None else "stop")


def one_by_one(
    conversations: Sequence[Sequence[Message]],
    answer: Callable[[Sequence[Message]], Answer],
    report: Callable[[int], None] | None,
) -> list[Answer]:
    """An answer to each conversation, in the same order; `report` hears how many are done."""
    answers = []
    for messages in conversations:
        answers.append(answer(messages))
        if report:
            report(len(answers))
    return answers


def next_tokens_of(logits: torch.Tensor, asked: torch.Tensor) -> NextTokens:
    """What logits `[A, vocabulary]` say of the tokens asked about, `[A, K]`; NaN beyond the vocabulary."""
    within = asked.long().clamp(max=logits.shape[-1] - 1)
    found = logits.log_softmax(-1).gather(-1, within)
    return NextTokens(logits.argmax(-1), found.masked_fill(asked >= logits.shape[-1], float("nan")))


def require_tuned(tuned: bool, what: str) -> None:
    """Requires that nobody asks for the base of what holds the tuned model alone.

    Raises:
        InputError: somebody does.
    """
    if not tuned:
        raise InputError(Fault(f"this {what} holds the tuned model alone", hint="ask the run for its base"))
