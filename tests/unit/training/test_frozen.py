"""Layers below the first trained one are computed once, and nothing changes but time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernels_there import PLAIN_AND_PACKED, kernel, needs_kernels
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from danlu.adapters.kinds import Lora
from danlu.adapters.lora import add_adapter, save_adapter
from danlu.data.template import Document
from danlu.training.engine import choose_engine
from danlu.training.feed import to_batches
from danlu.training.frozen import FrozenLayers, choose_frozen, first_trained_layer
from danlu.training.objectives import Objective, sft

packed_attention = kernel("packed_attention")

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}


class Documents(list[Document]):
    """A list that says how many tokens it has, as a store does."""

    @property
    def num_tokens(self) -> int:
        return sum(len(document.ids) for document in self)


def some_documents() -> Documents:
    numbers = torch.randint(10, 300, (4, 30), generator=torch.Generator().manual_seed(5)).tolist()
    lengths = (8, 20, 13, 8)
    return Documents(
        Document((7, 8, 9, 11, *row[:length]), ((6, 4 + length),)) for row, length in zip(numbers, lengths, strict=True)
    )


def tuned(layers: list[int] | None, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, **changes)
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], layers_to_transform=layers)
    model = get_peft_model(LlamaForCausalLM(config), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def adapted() -> Any:
    """As `tuned([2, 3])`, with layers that can be fused."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    model = add_adapter(base, Lora(4, 8.0, layers_to_transform=[2, 3]), ["q_proj", "down_proj"], 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def loss_and_gradients(
    called: Any, model: Any, batches: list[Any], objective: Objective = sft
) -> tuple[float, list[torch.Tensor]]:
    total = 0.0
    for batch in batches:
        loss, _ = objective(called, batch)
        loss.backward()
        total += float(loss.detach())
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad]
    model.zero_grad(set_to_none=True)
    return total, found


@pytest.mark.parametrize("share", PLAIN_AND_PACKED)
def test_loss_and_gradients_are_those_of_the_whole_model_in_every_epoch(share: bool) -> None:
    model, documents = tuned([2, 3]), some_documents()
    if share:
        packed_attention.switch_on(model.get_base_model())
    wanted, gradients = loss_and_gradients(model, model, to_batches(documents, 1 << 20, share, CPU))
    frozen = FrozenLayers(model, 2)
    for budget in (1 << 20, 40, 1):
        batches = to_batches(documents, budget, share, CPU, frozen)
        found, same = loss_and_gradients(frozen, model, batches)
        assert found == pytest.approx(wanted, rel=1e-5)
        for one, other in zip(same, gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@needs_kernels
def test_with_all_kernels_in_the_states_that_are_kept_give_the_same_loss_and_gradients() -> None:
    model, documents = adapted(), some_documents()
    wanted, gradients = loss_and_gradients(model, model, to_batches(documents, 1, False, CPU))
    engine = choose_engine(model, documents)
    assert engine.name == "packed attention, fused layers, chunked loss"
    frozen = choose_frozen(model, [documents], engine.objective, engine.shares_prefix)
    assert frozen is not None
    assert frozen.first == 2
    for budget in (1 << 20, 40, 1, 1 << 20):
        batches = to_batches(documents, budget, True, CPU, frozen)
        assert all(batch.states is not None and batch.states.shape[1] % 64 == 0 for batch in batches)
        found, same = loss_and_gradients(frozen, model, batches, engine.objective)
        assert found == pytest.approx(wanted, rel=1e-5)
        for one, other in zip(same, gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_kept_document_is_not_computed_again() -> None:
    model, documents = tuned([3]), some_documents()
    frozen = FrozenLayers(model, 3)
    calls = []
    model.get_base_model().model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    to_batches(documents, 1, False, CPU, frozen)
    assert len(calls) == len(documents)
    to_batches(documents, 1 << 20, False, CPU, frozen)
    assert len(calls) == len(documents)


def test_the_model_is_whole_again_after_each_pass(tmp_path: Any) -> None:
    model, documents = tuned([2, 3]), some_documents()
    frozen = FrozenLayers(model, 2)
    sft(frozen, to_batches(documents, 1 << 20, False, CPU, frozen)[0])
    assert len(model.get_base_model().model.layers) == 4
    save_adapter(model, tmp_path / "adapter", "base")
    from safetensors.torch import load_file

    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()
    assert {name.split(".layers.")[1][0] for name in names} == {"2", "3"}


def test_the_lowest_trained_layer_is_found() -> None:
    assert first_trained_layer(tuned([2, 3])) == 2
    assert first_trained_layer(tuned(None)) == 0


def test_nothing_is_kept_where_it_would_not_be_exact() -> None:
    documents = some_documents()
    assert isinstance(choose_frozen(tuned([2]), [documents], sft, False), FrozenLayers)
    assert choose_frozen(tuned(None), [documents], sft, False) is None
    assert choose_frozen(tuned([2], attention_dropout=0.1).eval(), [documents], sft, False) is None


def test_nothing_is_kept_where_layers_attend_differently() -> None:
    config = Qwen3Config(**SIZES, head_dim=16, use_sliding_window=True, sliding_window=4, max_window_layers=2)
    assert len(set(config.layer_types)) == 2
    model = get_peft_model(Qwen3ForCausalLM(config), LoraConfig(target_modules=["q_proj"], layers_to_transform=[3]))
    assert choose_frozen(model, [some_documents()], sft, False) is None


def test_a_wrong_state_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = FrozenLayers._compute
    monkeypatch.setattr(FrozenLayers, "_compute", lambda self, *given: right(self, *given) * 1.01)
    assert choose_frozen(tuned([2]), [some_documents()], sft, False) is None
