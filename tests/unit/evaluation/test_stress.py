"""Attacks, the general set and latency on a tiny model with an adapter: both models, and figures that are JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from danlu.adapters.kinds import Lora
from danlu.adapters.lora import add_adapter
from danlu.data.records import Messages
from danlu.data.template import stop_ids
from danlu.engines.transformers_engine import TransformersEngine
from danlu.evaluation.attacks import ATTACKS
from danlu.evaluation.general import general_text
from danlu.evaluation.perplexity import perplexity
from danlu.evaluation.stress import attack_models, check_general, time_models

QUESTIONS: list[Messages] = [
    [{"role": "user", "content": text}] for text in ("Where is my card?", "我的卡在哪里？", "What is a loan?")
]


@pytest.fixture(scope="module")
def engine(tokenizer: Any) -> TransformersEngine:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.3, bos_token_id=None, eos_token_id=None, max_position_embeddings=700,
    )  # fmt: skip
    model = add_adapter(LlamaForCausalLM(config), Lora(4, 8.0), ["q_proj", "down_proj"], 0).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return TransformersEngine(model, tokenizer, stop_ids(tokenizer, {}))


def test_both_models_are_attacked_with_the_same_inputs(engine: TransformersEngine, tokenizer: Any) -> None:
    seen: list[list[str]] = []

    def score(answers: list[str]) -> list[float]:
        seen.append(answers)
        return [len(text) / 100 for text in answers]

    found = attack_models(engine, QUESTIONS, score, list(ATTACKS), 100, 0, 4, quiet=True)
    assert json.loads(json.dumps(found)) == found
    assert set(found["models"]) == {"base", "tuned"}
    assert all(set(model["attacks"]) == set(ATTACKS) == set(found["inputs"]) for model in found["models"].values())
    assert seen[0] != seen[1 + len(ATTACKS)], "base and tuned answer differently"
    assert found["left_out"] == {}
    (longer,) = (row["question"] for row in found["inputs"]["longer_context"] if row["row"] == 0)
    assert 100 <= len(tokenizer(longer)["input_ids"]) < 250


def test_the_general_set_is_asked_and_read_by_both_models(engine: TransformersEngine, tokenizer: Any) -> None:
    found = check_general(engine, ("zh",), 5, 4, True, 0, quiet=True)
    json.dumps(found)
    assert found["items"] == 5
    assert set(found["accuracy"]["base"]) == {"zh"}
    ids = tokenizer(general_text("zh"))["input_ids"]
    assert found["perplexity"]["zh"]["tokens"] == len(ids)
    assert found["perplexity"]["zh"]["base"] == perplexity(engine, ids, tuned=False)
    assert found["perplexity"]["zh"]["base"] != found["perplexity"]["zh"]["tuned"]
    assert check_general(engine, ("zh",), 5, 4, False, 0, quiet=True)["perplexity"] is None


def test_an_encoder_decoder_model_is_asked_but_reads_no_plain_text(tokenizer: Any) -> None:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **sizes)).eval()
    found = check_general(TransformersEngine(model, tokenizer, [2]), ("en",), 2, 2, True, 0, quiet=True)
    assert found["items"] == 2
    assert found["perplexity"] is None


def test_a_length_beyond_the_models_context_is_left_out(engine: TransformersEngine) -> None:
    found = time_models(engine, (64, 699), 2, 1, "en")
    assert [each["asked"] for each in found["lengths"]] == [64]
    assert "700" in found["left_out"]["699"]
