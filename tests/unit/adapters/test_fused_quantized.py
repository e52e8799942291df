"""Adapters on quantised layers: PEFT's own layers for them, computed together, with the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora.bnb import Linear4bit, Linear8bitLt
from transformers import AutoModelForCausalLM

from danlu.adapters.fused import fuse
from danlu.adapters.kinds import Lora
from danlu.adapters.linear import FusedLinear
from danlu.adapters.lora import add_adapter, load_adapter, parameter_counts, save_adapter
from danlu.data.store import Store
from danlu.data.template import Document
from danlu.models.loading import load_base
from danlu.models.quantization import library_config, quantized_layers
from danlu.recipe.model_schema import EightBitQuantization, FourBitQuantization, Quantization
from danlu.training.engine import choose_engine

pytest.importorskip("bitsandbytes")

KINDS: dict[str, Quantization] = {
    "nf4": FourBitQuantization(type="nf4", double=True),
    "fp4": FourBitQuantization(type="fp4", double=False),
    "int8": EightBitQuantization(type="int8"),
}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.arange(20, 60).reshape(2, 20)


def adapted(
    folder: Path, kind: str, dtype: torch.dtype = torch.float32, dropout: float = 0.0, targets: Sequence[str] = ALL
) -> Any:
    model = add_adapter(load_base(folder, dtype, quantization=KINDS[kind]), Lora(4, 8.0, dropout), targets, 0)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def results(model: Any) -> list[torch.Tensor]:
    """Logits, and the gradients of every adapter weight."""
    torch.manual_seed(2)
    output = model(input_ids=IDS, labels=IDS, use_cache=False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [output.logits.detach(), *torch.autograd.grad(output.loss, trained)]


def require_close(found: list[torch.Tensor], expected: list[torch.Tensor], bound: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < bound


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_layer_gets_pefts_own_layer_for_it_and_float32_adapters(tiny_base: Path, kind: str) -> None:
    model = adapted(tiny_base, kind, torch.bfloat16)
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    assert len(layers) == 14
    assert all(isinstance(layer, Linear8bitLt if kind == "int8" else Linear4bit) for layer in layers)
    assert not any(isinstance(layer, FusedLinear) for layer in layers)
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    assert not any(layer.weight.requires_grad for _, layer in quantized_layers(model))


@pytest.mark.parametrize("kind", KINDS)
def test_fused_it_gives_what_peft_gives_and_can_be_taken_out(tiny_base: Path, kind: str) -> None:
    model = adapted(tiny_base, kind)
    expected = results(model)
    fused = fuse(model)
    assert (fused.linears, fused.norms, fused.mlps) == (14, 5, 2)
    require_close(results(model), expected, 1e-5)  # float32: the order of the sums
    fused.off()
    assert all(torch.equal(one, other) for one, other in zip(results(model), expected, strict=True))


def test_adapters_on_some_layers_leave_the_others_to_bitsandbytes(tiny_base: Path) -> None:
    for kind in KINDS:
        model = adapted(tiny_base, kind, targets=["q_proj", "v_proj"])
        expected = results(model)
        assert fuse(model).linears == 4
        require_close(results(model), expected, 1e-5)


def test_dropout_falls_on_the_adapters_input_alone(tiny_base: Path) -> None:
    model = adapted(tiny_base, "nf4", dropout=0.3).train()
    expected = results(model)
    fuse(model)
    require_close(results(model), expected, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_backward_pass_keeps_no_weights(tiny_base: Path, kind: str) -> None:
    model = adapted(tiny_base, kind)
    fuse(model)
    kept: list[torch.Tensor] = []
    query = model.get_base_model().model.layers[0].self_attn.q_proj
    x = torch.randn(1, 7, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        query(x)
    assert kept
    assert max(tensor.numel() for tensor in kept) < 64 * 64, "q's weights are 64 by 64"


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_counted_as_numbers_not_as_bytes(tiny_base: Path, kind: str) -> None:
    model = adapted(tiny_base, kind)
    assert parameter_counts(model) == model.get_nb_trainable_parameters()
    assert parameter_counts(model) == parameter_counts(
        add_adapter(load_base(tiny_base, torch.float32), Lora(4, 8.0, 0), ALL, 0)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_adapter_is_one_to_plain_peft_and_transformers(tiny_base: Path, tmp_path: Path, kind: str) -> None:
    save_adapter(adapted(tiny_base, kind), tmp_path / "adapter", str(tiny_base))
    theirs = AutoModelForCausalLM.from_pretrained(
        tiny_base, dtype=torch.float32, quantization_config=library_config(KINDS[kind], torch.float32)
    )
    # In training mode bitsandbytes neither packs weights nor rounds what int8 multiplies.
    theirs = PeftModel.from_pretrained(theirs, tmp_path / "adapter").train()
    ours = load_adapter(load_base(tiny_base, torch.float32, quantization=KINDS[kind]), tmp_path / "adapter")
    with torch.no_grad():
        require_close([ours(input_ids=IDS).logits], [theirs(input_ids=IDS).logits], 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kernel_is_proven_on_a_quantised_base(
    tiny_base: Path, make_store: Callable[[Sequence[Document]], Store], kind: str, dtype: torch.dtype
) -> None:
    numbers = torch.randint(10, 300, (4, 30), generator=torch.Generator().manual_seed(1)).tolist()
    store = make_store([Document((5, 6, 7, *row[: 9 + 4 * n]), ((6, 11),)) for n, row in enumerate(numbers)])
    engine = choose_engine(adapted(tiny_base, kind, dtype), store)
    assert engine.name == "packed attention, fused layers, chunked loss"
    assert engine.packs
