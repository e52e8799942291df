"""What does not fit a model is found on its shape alone, and the message lists what there is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import SIZES
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig, RwkvConfig

from danlu.adapters.fitting import fit_adapter
from danlu.adapters.kinds import Lora
from danlu.errors import Fault, RecipeError

LLAMA = LlamaConfig(**SIZES)
GPT2 = GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4)
RWKV = RwkvConfig(vocab_size=300, hidden_size=64, num_hidden_layers=2, tie_word_embeddings=True)


def shape(config: PreTrainedConfig) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def faults(config: PreTrainedConfig, lora: Lora, targets: Any = "all-linear") -> tuple[Fault, ...]:
    with pytest.raises(RecipeError) as caught:
        fit_adapter(shape(config), lora, targets)
    return caught.value.faults


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize("name", ["query", ".*q_proj", "proj", "lm_head", "layers.2.self_attn.q_proj"])
def test_a_pattern_for_no_layer_is_answered_with_the_layers(key: str, name: str) -> None:
    (fault,) = faults(LLAMA, Lora(4, 8.0, **{key: {name: 4, "q_proj": 2}}))
    assert fault.where == f"adapter.{key}.{name}"
    assert name in fault.what
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in fault.allowed
    assert "model.layers.0.self_attn.q_proj" in fault.allowed


def test_a_pattern_for_a_layer_without_adapter_is_refused() -> None:
    lora = Lora(4, 8.0, layers_to_transform=[1], rank_pattern={"layers.0.mlp.up_proj": 2, "v_proj": 2})
    found = faults(LLAMA, lora, ["q_proj", "up_proj"])
    assert [fault.where.rsplit(".", 1)[-1] for fault in found] == ["up_proj", "v_proj"]


def test_a_rank_above_a_layer_is_refused_by_its_key() -> None:
    lora = Lora(33, 8.0, rank_pattern={"k_proj": 40, "v_proj": 32, "up_proj": 64, "1.mlp.up_proj": 65})
    found = {fault.where: fault.allowed for fault in faults(LLAMA, lora)}
    assert found == {"adapter.rank_pattern.k_proj": "1 to 32", "adapter.rank_pattern.1.mlp.up_proj": "1 to 64"}
    fit_adapter(shape(LLAMA), Lora(64, 8.0, rank_pattern={"k_proj": 32, "v_proj": 32}), "all-linear")


def test_modules_to_save_are_named_in_full() -> None:
    lora, _ = fit_adapter(shape(LLAMA), Lora(4, 8.0, modules_to_save=["norm", "lm_head"]), "attention")
    assert lora.modules_to_save == ["lm_head", "model.norm"], "PEFT would take every norm whose name ends so"
    lora, _ = fit_adapter(shape(LLAMA), Lora(4, 8.0, modules_to_save=["input_layernorm"]), "attention")
    assert lora.modules_to_save == [f"model.layers.{layer}.input_layernorm" for layer in (0, 1)]


@pytest.mark.parametrize("name", ["head", "q_proj", "self_attn", "layers.0", "lora_A"])
def test_a_module_that_can_t_be_trained_whole_is_answered_with_those_that_can(name: str) -> None:
    (fault,) = faults(LLAMA, Lora(4, 8.0, modules_to_save=[name, "lm_head"]), ["q_proj"])
    assert fault.where == "adapter.modules_to_save"
    assert name in fault.what
    allowed = "down_proj, embed_tokens, gate_proj, input_layernorm, k_proj, lm_head, norm, o_proj"
    assert fault.allowed.startswith(allowed)


def test_a_tied_head_brings_the_embeddings_with_it() -> None:
    tied = LlamaConfig(**SIZES, tie_word_embeddings=True)
    for name in ("lm_head", "embed_tokens"):
        lora, _ = fit_adapter(shape(tied), Lora(4, 8.0, modules_to_save=[name]), "attention")
        assert lora.modules_to_save == ["lm_head", "model.embed_tokens"]
    (fault,) = faults(RWKV, Lora(4, 8.0, modules_to_save=["head"]))
    assert "one matrix" in fault.what


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_that_are_not_there_are_not_trained(bias: str) -> None:
    (fault,) = faults(LLAMA, Lora(4, 8.0, bias=bias))
    assert (fault.where, fault.allowed) == ("adapter.bias", "none")
    fit_adapter(shape(GPT2), Lora(4, 8.0, bias=bias), "all-linear")


def test_olora_on_transposed_weights_is_refused() -> None:
    (fault,) = faults(GPT2, Lora(4, 8.0, init_lora_weights="olora"))
    assert fault.where == "adapter.init_lora_weights"
    fit_adapter(shape(GPT2), Lora(4, 8.0, init_lora_weights="pissa"), "all-linear")


def test_all_that_is_wrong_is_said_at_once() -> None:
    lora = Lora(4, 8.0, bias="all", rank_pattern={"query": 2}, alpha_pattern={"key": 2.0}, modules_to_save=["nothing"])
    assert [fault.where for fault in faults(LLAMA, lora)] == [
        "adapter.modules_to_save",
        "adapter.rank_pattern.query",
        "adapter.alpha_pattern.key",
        "adapter.bias",
    ]


def test_a_pattern_without_overlap_stays_as_it_is() -> None:
    pattern = {"q_proj": 2, "0.mlp.up_proj": 3}
    assert fit_adapter(shape(LLAMA), Lora(4, 8.0, rank_pattern=pattern), "all-linear")[0].rank_pattern == pattern
