"""Adapters: where they go, that plain PEFT reads them, and that broken ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from danlu.adapters.fitting import fit_adapter
from danlu.adapters.kinds import Lora
from danlu.adapters.lora import add_adapter, load_adapter, parameter_counts, save_adapter
from danlu.adapters.targets import resolve_targets, skeleton
from danlu.errors import FolderError, ModelError, RecipeError

ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]
ALL = sorted([*ATTENTION, "down_proj", "gate_proj", "up_proj"])
IDS = torch.arange(20, 40).reshape(2, 10)


def base(hidden: int = 64, layers: int = 2) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=hidden,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def trained(layers: int = 2, targets: list[str] = ALL) -> Any:
    """A model whose adapter does something."""
    model = add_adapter(base(layers=layers), Lora(4, 8.0), targets, 0).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_adapter(trained(), tmp_path / "adapter", "some/base")
    return tmp_path / "adapter"


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def change_weights(folder: Path, value: float) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    sorted(weights.items())[3][1].view(-1)[5] = value
    save_file(weights, folder / "adapter_model.safetensors")


def test_presets_name_the_linear_layers_but_never_the_output_layer() -> None:
    assert resolve_targets(base(), "all-linear") == ALL
    assert resolve_targets(base(), "attention") == ATTENTION
    assert resolve_targets(base(), ["v_proj", "q_proj", "v_proj"]) == ["q_proj", "v_proj"]


def test_targets_are_found_on_a_model_without_weights(tmp_path: Path) -> None:
    base().config.save_pretrained(tmp_path)
    shape = skeleton(tmp_path)
    assert all(parameter.is_meta for parameter in shape.parameters())
    assert resolve_targets(shape, "all-linear") == ALL


def test_an_unknown_architecture_is_named_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nobody_knows"}', encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        skeleton(tmp_path)
    assert caught.value.faults[0].where == str(tmp_path)


@pytest.mark.parametrize("names", [["q_proj", "query"], ["query"], ["lm_head"], []])
def test_a_module_that_is_not_there_is_answered_with_those_that_are(names: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve_targets(base(), names)
    fault = caught.value.faults[0]
    assert fault.where == "adapter.target_modules"
    assert all(name in fault.allowed for name in [*ALL, "all-linear", "attention"])
    assert all(name in fault.what for name in names if name not in ALL)


def test_a_rank_above_the_smallest_chosen_layer_is_refused() -> None:
    assert fit_adapter(base(), Lora(64, 8.0), ["q_proj"])[1] == ["q_proj"]
    assert fit_adapter(base(), Lora(32, 8.0), ["k_proj"])[1] == ["k_proj"]
    with pytest.raises(RecipeError) as caught:
        fit_adapter(base(), Lora(33, 8.0), ["q_proj", "k_proj"])
    assert caught.value.faults[0].where == "adapter.rank"
    assert caught.value.faults[0].allowed == "1 to 32"


def test_only_the_adapter_is_trained_and_it_is_counted() -> None:
    model = add_adapter(base(), Lora(4, 8.0), ["q_proj"], 0)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(names) == 4
    assert all(".q_proj.lora_" in name for name in names)
    plain = sum(parameter.numel() for parameter in base().parameters())
    assert parameter_counts(model) == (2 * 2 * 4 * 64, plain + 2 * 2 * 4 * 64)


def test_the_adapter_of_a_bfloat16_base_is_float32() -> None:
    model = add_adapter(base().to(torch.bfloat16), Lora(4, 8.0), ALL, 0)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_fresh_adapter_answers_with_the_bits_of_its_base(dropout: float) -> None:
    expected = logits(base())
    assert torch.equal(logits(add_adapter(base(), Lora(4, 8.0, dropout), ALL, 0)), expected)
    assert not torch.equal(logits(trained()), expected)


def test_the_adapter_s_first_values_are_the_seed_s() -> None:
    first, same, other = (
        {n: p for n, p in add_adapter(base(), Lora(4, 8.0), ALL, seed).named_parameters() if "lora_A" in n}
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(same[name], value) for name, value in first.items())
    assert not any(torch.equal(other[name], value) for name, value in first.items())


def test_plain_peft_and_danlu_load_it_to_the_same_bits(saved: Path) -> None:
    expected = logits(trained())
    assert torch.equal(logits(PeftModel.from_pretrained(base(), saved).eval()), expected)
    loaded = load_adapter(base(), saved)
    assert torch.equal(logits(loaded), expected)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert sorted(path.name for path in saved.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert '"some/base"' in (saved / "adapter_config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_with_a_value_that_is_no_number_is_refused(saved: Path, value: float) -> None:
    change_weights(saved, value)
    with pytest.raises(FolderError, match="NaN or infinite"):
        load_adapter(base(), saved)


def test_an_adapter_of_a_wider_base_is_refused(saved: Path) -> None:
    with pytest.raises(FolderError, match="does not fit this base"):
        load_adapter(base(hidden=32), saved)


def test_an_adapter_of_another_family_is_refused_by_the_names_it_goes_on(saved: Path) -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4))
    with pytest.raises(FolderError) as caught:
        load_adapter(gpt2, saved)
    fault = caught.value.faults[0]
    assert "it goes on down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in fault.what
    assert "c_attn, c_fc, c_proj" in fault.allowed
    assert "\n" not in fault.what
    assert fault.hint


@pytest.mark.parametrize("layers", [1, 3])
def test_an_adapter_of_a_base_with_more_or_fewer_layers_is_refused(saved: Path, layers: int) -> None:
    with pytest.raises(FolderError, match="does not fit this base"):
        load_adapter(base(layers=layers), saved)


def test_an_adapter_that_lost_a_tensor_is_refused(saved: Path) -> None:
    weights = load_file(saved / "adapter_model.safetensors")
    lost = sorted(weights)[0]
    del weights[lost]
    save_file(weights, saved / "adapter_model.safetensors")
    with pytest.raises(FolderError, match="does not fit this base"):
        load_adapter(base(), saved)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused_by_the_file_s_name(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(FolderError, match=name):
        load_adapter(base(), saved)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_cut_off_file_is_refused(saved: Path, name: str) -> None:
    path = saved / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FolderError, match="broken"):
        load_adapter(base(), saved)
