"""A folder computed layer by layer says what the whole model says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_models import SIZES
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, GPT2Config, T5Config

from danlu.engines.transformers_engine import TransformersEngine
from danlu.export.streamed import StreamedEngine
from danlu.models.loading import load_base
from danlu.training.probes import Expected, Probe, Probes

HEADS = {"head_dim": 16}
FAMILIES: dict[str, Any] = {
    "llama, tied": AutoConfig.for_model("llama", **SIZES, tie_word_embeddings=True),
    "qwen2": AutoConfig.for_model("qwen2", **SIZES),
    "gemma3": AutoConfig.for_model("gemma3_text", **SIZES, **HEADS, query_pre_attn_scalar=16),
    "phi": AutoConfig.for_model("phi", **SIZES),
    "gpt2": GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, initializer_range=0.2),
    "t5": T5Config(vocab_size=300, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4, decoder_start_token_id=0),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_probabilities_are_those_of_the_whole_model(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = FAMILIES[family]
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    kind.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    probes = []
    for length in (5, 11, 8):
        tokens = torch.randint(0, 300, (length, 32), dtype=torch.int32)
        prompt = torch.randint(10, 300, (length + 3,)).tolist()
        expected = Expected(tokens[:, 0].tolist(), "", tokens, torch.zeros(tokens.shape))
        probes.append(Probe([], "", prompt, {"float32": expected}))
    tokenizer: Any = SimpleNamespace()
    monkeypatch.setattr("danlu.engines.transformers_engine.answer_start_ids", lambda _: [])
    whole = TransformersEngine(load_base(tmp_path, torch.float32), tokenizer, [2])
    streamed = StreamedEngine(tmp_path, tokenizer, [2])
    assert streamed.can_stream
    for probe, found in zip(probes, streamed.next_tokens_of_all(Probes([2], 4, probes), "float32"), strict=True):
        asked = probe.expected["float32"]
        wanted = whole.next_tokens(probe.prompt_ids, asked.answer_ids, asked.token_ids)
        torch.testing.assert_close(found.log_probabilities, wanted.log_probabilities, atol=2e-5, rtol=1e-5)
        assert torch.equal(found.likeliest, wanted.likeliest)
    assert all(parameter.is_meta for parameter in streamed._model.parameters()), "nothing is kept"
