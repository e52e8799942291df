"""Which parameter is updated how fast, and that no update is lost to rounding."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from danlu.adapters.fitting import fit_adapter
from danlu.adapters.kinds import Lora
from danlu.adapters.lora import add_adapter
from danlu.errors import RecipeError
from danlu.training.backends.replicated import Replicated
from danlu.training.optimizers import make_optimizer, require_optimizer

NAMES = ["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"]
BETAS = (0.9, 0.99)


class Values(torch.nn.Module):
    """A matrix and a vector that are trained."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        numbers = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        self.matrix = torch.nn.Parameter(numbers.to(dtype))
        self.bias = torch.nn.Parameter(torch.ones(64).to(dtype))


def backend_of(model: Any, name: str, rate: float, decay: float, ratio: float | None = None) -> Replicated:
    """What a run in one process has, with one of the optimizers."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    parts = {"learning_rate": rate, "betas": BETAS, "weight_decay": decay, "loraplus_lr_ratio": ratio}
    return Replicated(model, trained, functools.partial(make_optimizer, name=name, **parts))


def steps(backend: Replicated, count: int, first: int = 0) -> None:
    """Steps whose gradients depend on their number alone."""
    model = backend.model
    for number in range(first, first + count):
        generator = torch.Generator().manual_seed(number)
        for parameter in (model.matrix, model.bias):
            gradient = torch.rand(parameter.shape, generator=generator)
            parameter.grad = gradient.to(torch.bfloat16).to(parameter.dtype)
        backend.step(None)
        assert model.matrix.grad is None


def qwen2(lora: Lora) -> tuple[Any, dict[str, torch.nn.Parameter]]:
    torch.manual_seed(0)
    sizes = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    base = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=1))
    model = add_adapter(base, *fit_adapter(base, lora, "attention"), 0)
    return model, {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def by_parameter(optimizer: Any, trained: dict[str, torch.nn.Parameter], key: str) -> dict[str, float]:
    found = {id(parameter): group[key] for group in optimizer.param_groups for parameter in group["params"]}
    assert found.keys() == {id(parameter) for parameter in trained.values()}
    return {name: found[id(parameter)] for name, parameter in trained.items()}


@pytest.mark.parametrize("name", NAMES)
def test_with_loraplus_b_and_vectors_are_faster_at_every_rate(name: str) -> None:
    model, trained = qwen2(Lora(4, 8.0, use_dora=True, bias="lora_only"))
    backend = backend_of(model, name, 1e-3, 0.1, 16.0)
    for rate in (1e-3, 2e-5):
        backend.set_learning_rate(rate)
        rates = by_parameter(backend.optimizer, trained, "lr")
        for part, ratio in (("lora_A", 1), ("lora_B", 16), ("magnitude", 16), ("base_layer.bias", 16)):
            assert {value for name, value in rates.items() if part in name} == {rate * ratio}, part


def test_without_loraplus_all_have_the_same_rate() -> None:
    model, trained = qwen2(Lora(4, 8.0, use_dora=True))
    backend = backend_of(model, "adamw", 1e-3, 0.1)
    backend.set_learning_rate(3e-4)
    assert set(by_parameter(backend.optimizer, trained, "lr").values()) == {3e-4}


def test_vectors_are_not_decayed() -> None:
    _, trained = qwen2(Lora(4, 8.0, use_dora=True, bias="all", modules_to_save=["norm"]))
    decays = by_parameter(make_optimizer(trained, "adamw", 1e-3, BETAS, 0.1), trained, "weight_decay")
    assert {name for name, decay in decays.items() if not decay} == {
        *(f"base_model.model.model.layers.0.self_attn.{name}_proj.base_layer.bias" for name in "qkv"),
        "base_model.model.model.norm.modules_to_save.default.weight",
        *(
            f"base_model.model.model.layers.0.self_attn.{name}_proj.lora_magnitude_vector.default.weight"
            for name in "qkvo"
        ),
    }
    assert set(decays.values()) == {0.0, 0.1}


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_values_are_those_of_float32_steps_rounded(name: str) -> None:
    exact, rounded = Values(torch.float32), Values(torch.bfloat16)
    exact.load_state_dict({key: value.float() for key, value in rounded.state_dict().items()})
    for model in (exact, rounded):
        steps(backend_of(model, name, 1e-4, 0.01), 40)
    assert torch.equal(rounded.matrix, exact.matrix.to(torch.bfloat16))
    assert torch.equal(rounded.bias, exact.bias.to(torch.bfloat16))
    assert float(rounded.bias.max()) < 1.0, "1 is 0.996 by many steps of 1e-4, each below half of bfloat16's 0.004"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_was_kept_goes_on_as_if_nothing_had_been(name: str, dtype: torch.dtype) -> None:
    whole, halves, again = Values(dtype), Values(dtype), Values(dtype)
    steps(backend_of(whole, name, 1e-3, 0.01), 6)
    first = backend_of(halves, name, 1e-3, 0.01)
    steps(first, 3)
    second = backend_of(again, name, 1e-3, 0.01)
    second.load(first.state())
    steps(second, 3, first=3)
    assert torch.equal(again.matrix, whole.matrix)
    assert torch.equal(again.bias, whole.bias)


@pytest.mark.parametrize("name", NAMES[1:])
def test_without_bitsandbytes_one_message_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda part: None if part == "bitsandbytes" else right(part))
    with pytest.raises(RecipeError) as caught:
        require_optimizer(name, shards_moments=False)
    fault = caught.value.faults[0]
    assert fault.where == "training.optimizer"
    assert fault.hint == "pip install 'danlu[quantization]'"
    require_optimizer("adamw", shards_moments=True)


@pytest.mark.parametrize("name", NAMES[1:])
def test_moments_of_bitsandbytes_are_not_for_shards(name: str) -> None:
    with pytest.raises(RecipeError, match="shards"):
        require_optimizer(name, shards_moments=True)
