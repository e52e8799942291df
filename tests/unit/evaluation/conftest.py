"""What these tests share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from danlu.data.template import stop_ids
from danlu.engines.transformers_engine import TransformersEngine


@pytest.fixture(scope="session")
def engine(tokenizer: Any) -> TransformersEngine:
    """A Llama of two layers with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.3, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return TransformersEngine(LlamaForCausalLM(config).eval(), tokenizer, stop_ids(tokenizer, {}))
