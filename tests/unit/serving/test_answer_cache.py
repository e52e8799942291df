"""Answers that would be the same again are kept; others are made anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from small_gateway import Gateway

from danlu.engines.batching import Ask
from danlu.engines.interface import Sampling
from danlu.serving.answer_cache import AnswerCache, LocalAnswers
from danlu.serving.shelf import Lease

MESSAGES = [{"role": "user", "content": "Who are you?"}]
LEASE = Lease("law@1", "a" * 64, "law@1")
ASK = Ask((1, 2, 3), Sampling(9, 0.0, 0.9, 7, 5))


@pytest.fixture(scope="module")
def gateway(tokenizer: Any) -> Iterator[Gateway]:
    made = Gateway(tokenizer, cache=AnswerCache("float32", LocalAnswers(1 << 20)))
    yield made
    made.close()


def ask(gateway: Gateway, **more: Any) -> tuple[str, str]:
    """The answer, and whether it was kept."""
    asked = {"model": "law", "messages": MESSAGES, "temperature": 0} | more
    answer = gateway.client.chat.completions.with_raw_response.create(**asked)
    return str(answer.parse().choices[0].message.content), answer.headers["x-danlu-cache"]


def test_the_same_question_is_answered_without_the_engine(gateway: Gateway) -> None:
    first, count = ask(gateway), len(gateway.engine.asked)
    assert first == ("I am hash-of-law.", "miss")
    assert ask(gateway) == ("I am hash-of-law.", "hit")
    assert len(gateway.engine.asked) == count
    chunks = list(
        gateway.client.chat.completions.create(
            model="law", messages=MESSAGES, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == first[0]
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == chunks[-1].usage.prompt_tokens
    assert len(gateway.engine.asked) == count
    assert 'danlu_cache_total{outcome="hit"} 2.0' in gateway.http.get("/metrics").text
    assert gateway.settled()


@pytest.mark.parametrize(
    "more",
    [
        {"model": "support"},
        {"messages": [{"role": "user", "content": "Who are you? "}]},
        {"max_tokens": 17},
        {"stop": ["x"]},
        {"temperature": 0.5},
        {"temperature": 0.5, "seed": 1},
        {"logprobs": True},
    ],
    ids=str,
)
def test_another_question_is_not_answered_by_it(gateway: Gateway, more: dict[str, Any]) -> None:
    ask(gateway)
    assert ask(gateway, **more)[1] == "miss"


def test_a_drawn_answer_is_kept_if_its_seed_was_given(gateway: Gateway) -> None:
    assert [ask(gateway, temperature=0.9, seed=4)[1] for _ in range(2)] == ["miss", "hit"]
    assert [ask(gateway, temperature=0.9)[1] for _ in range(2)] == ["miss", "miss"]


def test_what_a_greedy_answer_does_not_depend_on_is_not_in_its_key() -> None:
    cache = AnswerCache("float32", LocalAnswers(1 << 20))
    key = cache.key(LEASE, ASK, seeded=False)
    assert key == cache.key(LEASE, replace(ASK, sampling=Sampling(9)), seeded=True)
    others = [
        cache.key(replace(LEASE, hash="b" * 64), ASK, False),
        cache.key(LEASE, replace(ASK, prompt=(1, 2, 4)), False),
        cache.key(LEASE, replace(ASK, sampling=Sampling(10)), False),
        cache.key(LEASE, replace(ASK, stop=("x",)), False),
        AnswerCache("bfloat16", LocalAnswers(1 << 20)).key(LEASE, ASK, False),
    ]
    assert len({key, *others}) == 6


def test_what_was_not_asked_for_longest_goes_first_and_bytes_are_bounded() -> None:
    local = LocalAnswers(100)
    for name in "abcd":
        local.put(name, b"x" * 30)
        assert local.get("a") is not None, "asked for each time"
    assert [local.get(name) is not None for name in "abcd"] == [True, False, True, True]
    local.put("a", b"y" * 10)
    assert local.num_bytes == 11 + 31 + 31
    local.put("large", b"z" * 200)
    assert (local.num_bytes, local.get("large")) == (0, None)
