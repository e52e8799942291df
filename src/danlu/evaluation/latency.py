"""How long an answer takes: to its first token, and for each token after that, by length of prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from danlu.data.records import Messages
from danlu.engines.interface import Engine, Sampling
from danlu.evaluation.general import Language, general_text
from danlu.training.environment import describe_machine

PERCENTILES = (50, 90, 99)
_ASK: dict[Language, str] = {"en": "Go on with this text: ", "zh": "请接着往下写："}


def run_latency(
    engine: Engine,
    count_tokens: Callable[[str], int],
    prompt_tokens: Callable[[Messages], int],
    lengths: Sequence[int],
    new_tokens: int,
    repeats: int,
    language: Language = "en",
    longest: int | None = None,
) -> dict[str, Any]:
    """Streams answers, one at a time, after one that is not counted.

    The time to the first token is that of an answer of one token, from the question to the stream's end; what comes
    after it is timed by a greedy answer of `new_tokens`, or fewer if it ends, to the same prompt. What a reader first
    sees is a whole word, so it comes later, and is told apart (`first_text_seconds`).

    Args:
        engine: of the model that is timed.
        count_tokens: of a text, as the engine's tokenizer cuts it.
        prompt_tokens: of a conversation's whole prompt.
        lengths: of prompts in tokens, with what the chat template adds.
        new_tokens: of an answer, two at least.
        repeats: answers for each length, each to another text.
        language: of the texts.
        longest: tokens that the model can read; None: not known.

    Returns:
        `machine` (processor, cores, threads, memory, GPU), `new_tokens`, `repeats`, `language`; `lengths`: for each
        `asked` and real `prompt_tokens`, `answers`, `new_tokens` (mean), `first_token_seconds`, `first_text_seconds`
        and `seconds_per_token` (each `mean`, `p50`, `p90`, `p99` over answers) and `tokens_per_second` (of all
        answers, after the first token); `left_out`: why lengths were left out, by length.
    """
    results, left_out = [], {}
    for length in lengths:
        if longest is not None and length + new_tokens > longest:
            left_out[str(length)] = (
                f"with {new_tokens} new tokens it is more than the {longest} that the model can read"
            )
            continue
        prompts = list(_prompts(length, prompt_tokens, language, repeats + 1))
        if not prompts:
            left_out[str(length)] = (
                f"the chat template alone is longer, {prompt_tokens(_conversation('', language))} tokens"
            )
            continue
        timed = [_time(engine, messages, new_tokens, count_tokens) for messages in prompts][1:]
        real = float(np.mean([prompt_tokens(messages) for messages in prompts[1:]]))
        results.append({"asked": length, "prompt_tokens": real, **_summary(timed)})
    about = {"new_tokens": new_tokens, "repeats": repeats, "language": language}
    return {"machine": describe_machine(), **about, "lengths": results, "left_out": left_out}


def _time(
    engine: Engine, messages: Messages, new_tokens: int, count_tokens: Callable[[str], int]
) -> dict[str, float | None]:
    """Seconds of one answer: to its first token, to its first text, for each token after the first."""
    started = time.perf_counter()
    for _ in engine.stream(messages, Sampling(1)):
        pass
    first_token = time.perf_counter() - started
    started = time.perf_counter()
    pieces, first_text = [], None
    for piece in engine.stream(messages, Sampling(new_tokens)):
        if piece and first_text is None:
            first_text = time.perf_counter() - started
        pieces.append(piece)
    whole = time.perf_counter() - started
    tokens = count_tokens("".join(pieces))
    per_token = max(0.0, whole - first_token) / (tokens - 1) if tokens > 1 else None
    return {"first_token": first_token, "first_text": first_text, "per_token": per_token, "tokens": tokens}


def _summary(timed: Sequence[dict[str, float | None]]) -> dict[str, Any]:
    def values(name: str) -> list[float]:
        return [value for each in timed if (value := each[name]) is not None]

    per_token = values("per_token")
    # After the first: seconds of all answers over their tokens, so a long answer weighs more than a short one.
    later = [(one["tokens"] or 0) - 1 for one in timed if one["per_token"] is not None]
    seconds = sum(each * count for each, count in zip(per_token, later, strict=True))
    return {
        "answers": len(timed),
        "new_tokens": float(np.mean(values("tokens"))),
        "first_token_seconds": _percentiles(values("first_token")),
        "first_text_seconds": _percentiles(values("first_text")),
        "seconds_per_token": _percentiles(per_token),
        "tokens_per_second": sum(later) / seconds if seconds else None,
    }


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    found = np.percentile(values, PERCENTILES)
    return {"mean": float(np.mean(values)), **{f"p{p}": float(v) for p, v in zip(PERCENTILES, found, strict=True)}}


def _prompts(
    length: int, prompt_tokens: Callable[[Messages], int], language: Language, count: int
) -> Iterator[Messages]:
    """Conversations of the wanted length, or the nearest below it; each begins at another place of the general text."""
    text = general_text(language) * (2 + length // 500)
    for number in range(count):
        begin = number * len(general_text(language)) // (count + 1)
        low, high = 0, len(text) - begin
        if prompt_tokens(_conversation(text[begin], language)) > length:
            return
        while low < high:
            middle = (low + high + 1) // 2
            fits = prompt_tokens(_conversation(text[begin : begin + middle], language)) <= length
            low, high = (middle, high) if fits else (low, middle - 1)
        yield _conversation(text[begin : begin + low], language)


def _conversation(text: str, language: Language) -> Messages:
    return [{"role": "user", "content": f"{_ASK[language]}{text}"}]
