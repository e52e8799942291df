"""Times come from the stream, and are right to the tick where the clock is ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from danlu.data.records import Message
from danlu.data.template import prompt_ids
from danlu.engines.interface import Answer, Sampling
from danlu.engines.transformers_engine import TransformersEngine
from danlu.evaluation import latency
from danlu.evaluation.latency import run_latency


class Clockwork:
    """An engine whose time passes by rule: a thousandth of a second for a prompt's word, a hundredth for each token.

    Its first answer of all takes ten seconds more, and text comes a token late.
    """

    def __init__(self) -> None:
        self.now, self.calls = 0.0, 0

    def generate(self, conversations: Any, sampling: Sampling, tuned: bool = True) -> list[Answer]:
        raise NotImplementedError

    def stream(self, messages: Sequence[Message], sampling: Sampling, tuned: bool = True) -> Iterator[str]:
        self.calls += 1
        self.now += 0.001 * len(str(messages[0]["content"]).split()) + 10.0 * (self.calls == 1)
        for number in range(sampling.max_new_tokens):
            self.now += 0.01
            if number:
                yield "word "
        yield "word "


def words(text: str) -> int:
    return len(text.split())


def test_times_are_those_of_the_clock_and_the_first_answer_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Clockwork()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: engine.now)
    found = run_latency(engine, words, lambda messages: words(str(messages[0]["content"])), (20, 40), 11, 4)
    short, long = found["lengths"]
    assert (short["asked"], short["prompt_tokens"], long["prompt_tokens"]) == (20, 20.0, 40.0)
    assert short["first_token_seconds"] == pytest.approx({"mean": 0.03, "p50": 0.03, "p90": 0.03, "p99": 0.03})
    assert long["first_token_seconds"]["p50"] == pytest.approx(0.05)
    assert short["first_text_seconds"]["mean"] == pytest.approx(0.04), "a token later"
    assert short["seconds_per_token"]["p90"] == pytest.approx(0.01)
    assert short["tokens_per_second"] == pytest.approx(100.0)
    assert (short["answers"], short["new_tokens"]) == (4, 11.0)
    assert engine.calls == 2 * 2 * 5
    assert found["left_out"] == {}


def test_percentiles_are_over_answers() -> None:
    found = latency._percentiles([float(number) for number in range(101)])
    assert found == {"mean": 50.0, "p50": 50.0, "p90": 90.0, "p99": 99.0}
    assert latency._percentiles([]) is None


def test_lengths_that_can_not_be_are_left_out_with_the_reason() -> None:
    found = run_latency(Clockwork(), words, lambda m: 9 + words(str(m[0]["content"])), (4, 30, 64), 10, 1, longest=64)
    assert [each["asked"] for each in found["lengths"]] == [30]
    assert "chat template alone" in found["left_out"]["4"]
    assert "64" in found["left_out"]["64"]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_tiny_model_is_timed_with_prompts_of_the_wanted_length(
    engine: TransformersEngine, tokenizer: Any, language: Any
) -> None:
    def count(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    found = run_latency(engine, count, lambda m: len(prompt_ids(tokenizer, m)), (64, 1500), 4, 2, language)
    json.dumps(found)
    assert [each["asked"] for each in found["lengths"]] == [64, 1500]
    assert all(each["asked"] - 4 <= each["prompt_tokens"] <= each["asked"] for each in found["lengths"])
    assert all(each["first_token_seconds"]["p50"] > 0 for each in found["lengths"])
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["processor"]
