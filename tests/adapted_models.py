"""Tiny random models of several families with adapters on them, and what PEFT and Transformers answer by them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BloomConfig, Gemma3TextConfig, GPT2Config, LlamaConfig

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
# With layers that see a window alone, with learned positions and transposed weights, with positions that are biases.
FAMILIES = {
    "llama": lambda size: LlamaConfig(vocab_size=size, **_SIZES),
    "gemma3": lambda size: Gemma3TextConfig(
        vocab_size=size,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=False,
        **_SIZES,
    ),
    "gpt2": lambda size: GPT2Config(
        vocab_size=size, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, bos_token_id=None, eos_token_id=None
    ),
    "bloom": lambda size: BloomConfig(
        vocab_size=size,
        hidden_size=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
    ),
}
_LAYERS = {
    "llama": (["q_proj", "v_proj"], ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"], ["down_proj"]),
    "gemma3": (["q_proj", "v_proj"], ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"], ["down_proj"]),
    "gpt2": (["c_attn"], ["c_attn", "c_proj", "c_fc"], ["c_fc"]),
    "bloom": (["query_key_value"], ["query_key_value", "dense", "dense_h_to_4h"], ["dense_4h_to_h"]),
}


def make_base(family: str, vocabulary: int) -> Any:
    """A random model; the same each time."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(FAMILIES[family](vocabulary)).eval()


def save_adapters(family: str, base: Any, folder: Path) -> dict[str, Path]:
    """Three adapters of other ranks, scalings and layers, each of which changes the answers."""
    few, many, one = _LAYERS[family]
    configs = {
        "few": LoraConfig(r=4, lora_alpha=8, target_modules=few, task_type="CAUSAL_LM"),
        "many": LoraConfig(
            r=6, lora_alpha=4, use_rslora=True, target_modules=many, rank_pattern={many[1]: 3}, task_type="CAUSAL_LM"
        ),
        "one": LoraConfig(
            r=2, lora_alpha=2, target_modules=one, alpha_pattern={one[0]: 6}, layers_to_transform=[1],
            task_type="CAUSAL_LM",
        ),
    }  # fmt: skip
    folders = {}
    for seed, (name, config) in enumerate(configs.items()):
        torch.manual_seed(seed)
        tuned = get_peft_model(copy.deepcopy(base), config)
        for key, parameter in tuned.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.5)
        tuned.save_pretrained(folder / name)
        folders[name] = folder / name
    return folders


def answers_one_by_one(
    base: Any, adapter: Path | None, prompts: Sequence[Sequence[int]], length: int, stops: Sequence[int]
) -> list[list[int]]:
    """Transformers' own greedy answers, each prompt alone, by PEFT's model."""
    base = copy.deepcopy(base)
    model = base if adapter is None else PeftModel.from_pretrained(base, adapter).eval()
    answers = []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=length,
                do_sample=False,
                eos_token_id=list(stops),
                pad_token_id=stops[0],
            )
        answers.append(out[0, len(prompt) :].tolist())
    return answers
