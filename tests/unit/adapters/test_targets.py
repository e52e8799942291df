"""Adapters find the linear layers of models that store them transposed."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from danlu.adapters.fitting import fit_adapter
from danlu.adapters.kinds import Lora
from danlu.adapters.targets import resolve_targets
from danlu.errors import RecipeError


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=32))


def test_gpt2_has_linear_layers() -> None:
    assert resolve_targets(gpt2(), "all-linear") == ["c_attn", "c_fc", "c_proj"]
    assert resolve_targets(gpt2(), ["c_attn"]) == ["c_attn"]


def test_a_rank_above_the_smaller_side_of_a_transposed_layer_is_refused() -> None:
    with pytest.raises(RecipeError, match="rank 17 is above the smallest chosen layer"):
        fit_adapter(gpt2(), Lora(17, 8.0), "all-linear")
