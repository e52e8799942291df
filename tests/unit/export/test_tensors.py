"""Base + adapter made layer by layer, against PEFT's `merge_and_unload` on the whole model in float32."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import SIZES
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, GPT2Config, T5Config

from danlu.adapters.fitting import fit_adapter
from danlu.adapters.kinds import Adapter, Ia3, Loha, Lokr, Lora, Vera
from danlu.adapters.lora import add_adapter, load_adapter, save_adapter
from danlu.errors import FolderError, ModelError
from danlu.export.shards import Planned, into_shards, write_shards
from danlu.export.tensors import Source, TunedTensors
from danlu.models.loading import load_plain
from danlu.recipe.model_schema import EightBitQuantization, FourBitQuantization

EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
HEADS = {"head_dim": 16}
GPT2 = GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2)
T5 = T5Config(vocab_size=300, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4, decoder_start_token_id=0)
FAMILIES: dict[str, Any] = {
    "llama": AutoConfig.for_model("llama", **SIZES),
    "a wider llama": AutoConfig.for_model("llama", **{**SIZES, "intermediate_size": 112}),
    "llama, tied": AutoConfig.for_model("llama", **SIZES, tie_word_embeddings=True),
    "llama with biases": AutoConfig.for_model("llama", **SIZES, attention_bias=True, mlp_bias=True),
    "qwen3": AutoConfig.for_model("qwen3", **SIZES, **HEADS),
    "gemma3": AutoConfig.for_model("gemma3_text", **SIZES, **HEADS, query_pre_attn_scalar=16),
    "phi": AutoConfig.for_model("phi", **SIZES),
    "mixtral": AutoConfig.for_model("mixtral", **SIZES, **EXPERTS),
    "qwen3 moe": AutoConfig.for_model("qwen3_moe", **SIZES, **HEADS, **EXPERTS),
    "gpt-neox": AutoConfig.for_model("gpt_neox", **SIZES),
    "gpt2": GPT2,
    "t5": T5,
}
KINDS: dict[str, Adapter] = {
    "lora": Lora(4, 8.0),
    "rslora": Lora(4, 8.0, use_rslora=True),
    "dora": Lora(4, 8.0, use_dora=True),
    "pissa": Lora(4, 8.0, init_lora_weights="pissa"),
    "olora": Lora(4, 8.0, init_lora_weights="olora"),
    "patterns": Lora(4, 8.0, rank_pattern={"q_proj": 2}, alpha_pattern={"0.mlp.up_proj": 3.0}),
    "one layer": Lora(4, 8.0, layers_to_transform=[1]),
    "norm and head whole": Lora(4, 8.0, modules_to_save=["norm", "lm_head"]),
    "loha": Loha(4, 8.0),
    "lokr": Lokr(4, 8.0),
    "ia3": Ia3(feedforward_modules=["down_proj"]),
    "vera": Vera(8),
}
ALL_BITS = {
    "nf4": FourBitQuantization(type="nf4", double=True),
    "fp4": FourBitQuantization(type="fp4", double=False),
    "int8": EightBitQuantization(type="int8"),
}


def saved_base(folder: Path, config: Any, dtype: torch.dtype = torch.bfloat16, **how: Any) -> Path:
    torch.manual_seed(0)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    kind.from_config(config).to(dtype).save_pretrained(folder, **how)
    return folder


def saved_adapter(base: Path, folder: Path, adapter: Adapter) -> Path:
    """An adapter on all linear layers, each of whose numbers was moved by training, as it were."""
    model = load_plain(base, torch.float32)
    fitted, names = fit_adapter(model, adapter, "all-linear")
    tuned = add_adapter(model, fitted, names, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    save_adapter(tuned, folder, "base")
    return folder


def made(source: Source) -> dict[str, torch.Tensor]:
    """By the parameter's name, in float32; parts of parameters are left out."""
    return {one.stored.parameter: one.tuned.float() for one in TunedTensors(source) if one.stored.whole}


def wanted(source: Source) -> dict[str, torch.Tensor]:
    plain = load_plain(source.base, source.dtype, source.quantization)
    assert source.adapter
    state: dict[str, torch.Tensor] = load_adapter(plain, source.adapter).merge_and_unload().state_dict()
    return state


def assert_made_as_peft_makes_it(source: Source) -> None:
    found, expected = made(source), wanted(source)
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
    base = load_plain(source.base, source.dtype, source.quantization).state_dict()
    changed = {name for name, tensor in expected.items() if not torch.equal(tensor, base[name])}
    assert changed, "the adapter does something"
    assert changed <= found.keys() | {"lm_head.weight"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_is_merged_to_the_bits_of_peft(tmp_path: Path, kind: str) -> None:
    base = saved_base(tmp_path / "base", FAMILIES["llama"])
    adapter = saved_adapter(base, tmp_path / "adapter", KINDS[kind])
    assert_made_as_peft_makes_it(Source(base, torch.bfloat16, None, adapter))


@pytest.mark.parametrize(
    ("family", "kind"),
    [*((family, "dora") for family in FAMILIES), *((family, "ia3") for family in ("llama with biases", "gpt2", "phi"))],
)
def test_every_family_is_merged_to_the_bits_of_peft(tmp_path: Path, family: str, kind: str) -> None:
    base = saved_base(tmp_path / "base", FAMILIES[family])
    adapter = replace(KINDS[kind], feedforward_modules=()) if kind == "ia3" else KINDS[kind]
    folder = saved_adapter(base, tmp_path / "adapter", adapter)
    assert_made_as_peft_makes_it(Source(base, torch.bfloat16, None, folder))


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_biases_are_taken_over(tmp_path: Path, bias: str) -> None:
    for family in ("llama with biases", "gpt2", "phi"):
        base = saved_base(tmp_path / f"base {family}", FAMILIES[family])
        adapter = saved_adapter(base, tmp_path / f"adapter {family}", Lora(4, 8.0, bias=bias))
        assert_made_as_peft_makes_it(Source(base, torch.float32, None, adapter))


def test_tied_embeddings_trained_whole_stay_one_matrix(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", FAMILIES["llama, tied"])
    adapter = saved_adapter(base, tmp_path / "adapter", Lora(4, 8.0, modules_to_save=["lm_head"]))
    source = Source(base, torch.bfloat16, None, adapter)
    assert_made_as_peft_makes_it(source)
    assert "lm_head.weight" not in made(source)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "qwen3 moe"])
def test_a_quantised_base_is_what_its_bits_stand_for(tmp_path: Path, bits: str, family: str) -> None:
    pytest.importorskip("bitsandbytes")
    base = saved_base(tmp_path / "base", FAMILIES[family])
    adapter = saved_adapter(base, tmp_path / "adapter", KINDS["lora"])
    assert_made_as_peft_makes_it(Source(base, torch.bfloat16, ALL_BITS[bits], adapter))
    plain, fewer = (
        made(Source(base, torch.bfloat16, None, adapter)),
        made(Source(base, torch.bfloat16, ALL_BITS[bits], adapter)),
    )
    assert any(not torch.equal(plain[name], fewer[name]) for name in plain)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_a_base_is_rounded_as_it_was_when_it_was_loaded(tmp_path: Path, stored: torch.dtype) -> None:
    base = saved_base(tmp_path / "base", FAMILIES["llama"], stored)
    adapter = saved_adapter(base, tmp_path / "adapter", KINDS["lora"])
    assert_made_as_peft_makes_it(Source(base, torch.bfloat16, None, adapter))


def test_weight_and_bias_may_be_in_other_files(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", FAMILIES["llama with biases"])
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    for number, end in enumerate(("weight", "bias")):
        part = {name: tensor for name, tensor in tensors.items() if name.endswith(end)}
        save_file(part, base / f"model-{number}.safetensors", {"format": "pt"})
    places = {name: f"model-{int(name.endswith('bias'))}.safetensors" for name in tensors}
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    adapter = saved_adapter(base, tmp_path / "adapter", Ia3())
    assert_made_as_peft_makes_it(Source(base, torch.bfloat16, None, adapter))


def test_a_tensor_that_the_base_lacks_is_named(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", FAMILIES["llama"])
    adapter = saved_adapter(base, tmp_path / "adapter", KINDS["lora"])
    tensors = load_file(base / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"missing from the weights, first model\.norm\.weight"):
        TunedTensors(Source(base, torch.bfloat16, None, adapter))


@pytest.mark.parametrize("other", ["a wider llama", "gpt2"])
def test_an_adapter_of_another_base_is_refused(tmp_path: Path, other: str) -> None:
    base = saved_base(tmp_path / "base", FAMILIES["llama"])
    adapter = saved_adapter(saved_base(tmp_path / "other", FAMILIES[other]), tmp_path / "adapter", KINDS["lora"])
    with pytest.raises(FolderError, match="does not fit this base"):
        TunedTensors(Source(base, torch.bfloat16, None, adapter))


def test_shards_hold_the_tensors_and_keep_to_their_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {f"layer.{number}": torch.randn(number + 1, 40).to(torch.bfloat16) for number in range(30)}
    tensors |= {
        "scalar": torch.tensor(3),
        "flags": torch.tensor([True, False]),
        "wide": torch.randn(5, dtype=torch.float64),
    }
    planned = [Planned(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()]
    files = write_shards(tmp_path, into_shards(planned, 10_000), iter(tensors.items()))
    assert len(files) > 3
    read: dict[str, torch.Tensor] = {}
    for path in files:
        one = load_file(path)
        assert sum(tensor.nbytes for tensor in one.values()) <= 10_000
        with safe_open(path, "pt") as stream:
            assert stream.metadata() == {"format": "pt"}
        read |= one
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())
