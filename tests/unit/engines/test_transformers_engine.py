"""The engine answers as Transformers does with one question at a time, and streams the same text."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from danlu.adapters.kinds import Lora
from danlu.adapters.lora import add_adapter
from danlu.data.records import Messages
from danlu.data.template import prompt_ids, stop_ids
from danlu.engines.interface import Sampling
from danlu.engines.transformers_engine import TransformersEngine

LENGTH = 12
QUESTIONS = [
    "Hi",
    "What is the capital of France, and how many people live there?",
    "你好",
    "Name three colours.",
    "One word, please: what do bees make in summer when flowers bloom all over the hills and the days are long?",
]
CONVERSATIONS: list[Messages] = [[{"role": "user", "content": question}] for question in QUESTIONS]


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    """A tiny random Llama with the real vocabulary and an adapter that changes its answers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
    )
    tuned = add_adapter(LlamaForCausalLM(config), Lora(4, 8.0), ["q_proj", "v_proj", "down_proj"], 0).eval()
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return tuned


@pytest.fixture(scope="module")
def engine(model: Any, tokenizer: Any) -> TransformersEngine:
    return TransformersEngine(model, tokenizer, stop_ids(tokenizer, {}), batch_size=2)


def one_at_a_time(model: Any, tokenizer: Any, messages: Messages) -> list[int]:
    ids = torch.tensor([prompt_ids(tokenizer, messages)])
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=LENGTH,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=0,
        )
    return out[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("batch_size", [1, 2, 5, 16])
def test_answers_in_batches_are_those_of_one_question_at_a_time(model: Any, tokenizer: Any, batch_size: int) -> None:
    done: list[int] = []
    engine = TransformersEngine(model, tokenizer, stop_ids(tokenizer, {}), batch_size)
    answers = engine.generate(CONVERSATIONS, Sampling(LENGTH), report=done.append)
    assert [list(answer.ids) for answer in answers] == [
        one_at_a_time(model, tokenizer, messages) for messages in CONVERSATIONS
    ]
    assert len({answer.ids for answer in answers}) == len(QUESTIONS)
    assert {answer.finish for answer in answers} == {"length"}
    assert done[-1] == len(QUESTIONS)


def test_an_answer_ends_at_its_stop_token_and_the_text_is_without_it(model: Any, tokenizer: Any) -> None:
    free = TransformersEngine(model, tokenizer, [tokenizer.eos_token_id])
    plain = free.generate(CONVERSATIONS, Sampling(LENGTH))
    stop = plain[1].ids[4]
    stopping = TransformersEngine(model, tokenizer, [stop], batch_size=5)
    for before, after in zip(plain, stopping.generate(CONVERSATIONS, Sampling(LENGTH)), strict=True):
        ids = list(before.ids)
        end = ids.index(stop) if stop in ids else None
        assert after.finish == ("length" if end is None else "stop")
        assert list(after.ids) == (ids if end is None else ids[: end + 1])
        assert after.text == tokenizer.decode(ids[:end], skip_special_tokens=True)
    assert stopping.generate(CONVERSATIONS[1:2], Sampling(LENGTH))[0].finish == "stop"


@pytest.mark.parametrize("index", range(len(QUESTIONS)))
def test_streamed_pieces_join_to_the_generated_text(engine: TransformersEngine, index: int) -> None:
    pieces = list(engine.stream(CONVERSATIONS[index], Sampling(LENGTH)))
    assert "".join(pieces) == engine.generate([CONVERSATIONS[index]], Sampling(LENGTH))[0].text
    assert len(pieces) > 1


def test_a_stream_ends_before_a_stop_token_even_if_it_is_an_ordinary_word(model: Any, tokenizer: Any) -> None:
    free = TransformersEngine(model, tokenizer, [tokenizer.eos_token_id])
    stop = free.generate(CONVERSATIONS[:1], Sampling(LENGTH))[0].ids[3]
    assert stop not in tokenizer.all_special_ids
    engine = TransformersEngine(model, tokenizer, [stop])
    answer = engine.generate(CONVERSATIONS[:1], Sampling(LENGTH))[0]
    assert answer.finish == "stop"
    assert "".join(engine.stream(CONVERSATIONS[0], Sampling(LENGTH))) == answer.text


def test_sampling_follows_its_seed_in_generation_and_in_streams(engine: TransformersEngine) -> None:
    def text(seed: int) -> str:
        return engine.generate(CONVERSATIONS[:1], Sampling(LENGTH, 1.0, 0.95, seed))[0].text

    assert text(1) == text(1)
    assert text(1) != text(2)
    assert "".join(engine.stream(CONVERSATIONS[0], Sampling(LENGTH, 1.0, 0.95, 1))) == text(1)


def test_without_the_adapter_the_base_answers(engine: TransformersEngine, model: Any, tokenizer: Any) -> None:
    with model.disable_adapter():
        expected = [one_at_a_time(model, tokenizer, messages) for messages in CONVERSATIONS]
    found = engine.generate(CONVERSATIONS, Sampling(LENGTH), tuned=False)
    assert [list(answer.ids) for answer in found] == expected
    assert expected != [list(answer.ids) for answer in engine.generate(CONVERSATIONS, Sampling(LENGTH))]
    assert "".join(engine.stream(CONVERSATIONS[0], Sampling(LENGTH), tuned=False)) == found[0].text


def test_a_model_without_an_adapter_answers_either_way(model: Any, tokenizer: Any) -> None:
    torch.manual_seed(1)
    bare = LlamaForCausalLM(model.config).eval()
    engine = TransformersEngine(bare, tokenizer, [tokenizer.eos_token_id])
    tuned, plain = (engine.generate(CONVERSATIONS[:2], Sampling(LENGTH), tuned) for tuned in (True, False))
    assert tuned == plain


def test_a_stream_that_is_left_ends_its_work_and_gives_the_adapter_back(engine: TransformersEngine) -> None:
    expected = engine.generate(CONVERSATIONS[:1], Sampling(LENGTH))
    before = set(threading.enumerate())
    stream = engine.stream(CONVERSATIONS[0], Sampling(100_000), tuned=False)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before
    assert engine.generate(CONVERSATIONS[:1], Sampling(LENGTH)) == expected


def test_a_failure_inside_a_stream_reaches_the_reader(model: Any, tokenizer: Any, monkeypatch: Any) -> None:
    def failing(**_: Any) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(model, "generate", failing)
    engine = TransformersEngine(model, tokenizer, [tokenizer.eos_token_id])
    with pytest.raises(RuntimeError, match="out of luck"):
        list(engine.stream(CONVERSATIONS[0], Sampling(LENGTH)))


def test_logits_of_a_given_answer_are_those_it_was_chosen_by(engine: TransformersEngine, tokenizer: Any) -> None:
    answer = engine.generate(CONVERSATIONS[1:2], Sampling(LENGTH))[0]
    logits = engine.logits(prompt_ids(tokenizer, CONVERSATIONS[1]), answer.ids)
    assert logits.shape == (len(answer.ids), len(tokenizer))
    assert logits.dtype == torch.float32
    assert logits.argmax(-1).tolist() == list(answer.ids)
    base = engine.logits(prompt_ids(tokenizer, CONVERSATIONS[1]), answer.ids, tuned=False)
    assert not torch.allclose(base, logits, atol=1e-2)


def test_a_generation_config_of_the_model_changes_nothing(engine: TransformersEngine, model: Any) -> None:
    expected = engine.generate(CONVERSATIONS[:2], Sampling(LENGTH))
    before = model.generation_config.to_dict()
    try:
        model.generation_config.update(repetition_penalty=3.0, do_sample=True, temperature=5.0, min_new_tokens=3)
        assert engine.generate(CONVERSATIONS[:2], Sampling(LENGTH)) == expected
    finally:
        model.generation_config.update(**before)
