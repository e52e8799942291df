"""Checkpointed layers change no bit, and a bound on memory is kept or refused with what would do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, LlamaConfig

from danlu.adapters.kinds import Lora
from danlu.adapters.lora import add_adapter
from danlu.data.template import Document
from danlu.errors import RecipeError
from danlu.training.engine import choose_engine
from danlu.training.feed import to_batches
from danlu.training.machine import resident_bytes
from danlu.training.memory import (
    _RESERVE_BYTES,
    MemoryPlan,
    checkpoint_activations,
    close_holes_on_the_way,
    plan_memory,
)

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
NUMBERS = torch.randint(10, 300, (4, 200), generator=torch.Generator().manual_seed(1)).tolist()
DOCUMENTS = [Document(tuple(row[: 60 + 40 * n]), ((20, 50),)) for n, row in enumerate(NUMBERS)]


def model_of(config: Any = None, targets: tuple[str, ...] = ("q_proj", "v_proj", "up_proj")) -> Any:
    torch.manual_seed(0)
    model = add_adapter(
        AutoModelForCausalLM.from_config(config or LlamaConfig(**SIZES)).eval(), Lora(4, 8.0, 0.1), targets, 0
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def gradients(model: Any, engine: Any) -> list[torch.Tensor]:
    model.train()
    torch.manual_seed(5)
    for batch in to_batches(DOCUMENTS, 1 << 20, engine.shares_prefix, torch.device("cpu")):
        engine.objective(model, batch)[0].backward()
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad]
    model.zero_grad()
    return found


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_checkpointed_layers_give_the_same_bits_with_dropout_too(share: float) -> None:
    model = model_of()
    engine = choose_engine(model, DOCUMENTS)
    before = gradients(model, engine)
    checkpoint_activations(model, share)
    assert all(torch.equal(a, b) for a, b in zip(gradients(model, engine), before, strict=True))


@pytest.mark.parametrize(("share", "expected"), [(0.25, 1), (0.26, 2), (0.5, 2), (1.0, 4), (0.0, 0)])
def test_as_many_layers_are_checkpointed_as_asked_for(share: float, expected: int) -> None:
    model = model_of()
    checkpoint_activations(model, 1.0)
    checkpoint_activations(model, share)
    layers = model.get_base_model().model.layers
    assert sum(bool(layer.gradient_checkpointing) for layer in layers) == expected


def test_without_a_bound_the_wish_is_the_plan() -> None:
    model = model_of()
    wish = MemoryPlan(1024, 0.5)
    assert plan_memory(model, choose_engine(model, DOCUMENTS), DOCUMENTS, wish, None) == wish
    assert [layer.gradient_checkpointing for layer in model.get_base_model().model.layers] == [True, False, True, False]


def test_less_memory_gives_smaller_micro_batches_then_checkpointed_layers_then_a_refusal() -> None:
    model = model_of()
    engine = choose_engine(model, DOCUMENTS)
    wish = MemoryPlan(1 << 20, 0.0)
    ample = plan_memory(model, engine, DOCUMENTS, MemoryPlan(100, 0.0), 1 << 50)
    assert (ample.micro_batch_tokens, ample.checkpointed_share) == (100, 0.0)
    floor = resident_bytes() + _RESERVE_BYTES + (8 << 20)
    plans = [plan_memory(model, engine, DOCUMENTS, wish, floor + extra) for extra in (200 << 20, 100 << 20)]
    assert plans[0].micro_batch_tokens > plans[1].micro_batch_tokens > 180
    assert plans[0].checkpointed_share == 0.0
    with pytest.raises(RecipeError, match="allowed are") as caught:
        plan_memory(model, engine, DOCUMENTS, wish, _RESERVE_BYTES)
    assert "180 tokens" in str(caught.value)
    assert caught.value.exit_status == 2


def test_what_is_kept_for_a_token_shrinks_with_every_checkpointed_layer() -> None:
    model = model_of()
    engine = choose_engine(model, DOCUMENTS)
    kept = [
        plan_memory(model, engine, DOCUMENTS, MemoryPlan(64, share), 1 << 50).bytes_per_token for share in (0, 0.5, 1)
    ]
    assert kept[0] > 1.5 * kept[1] > 2 * kept[2]


def test_a_model_without_checkpointing_says_so() -> None:
    model = model_of(BloomConfig(vocab_size=300, hidden_size=64, n_layer=2, n_head=4), ("query_key_value",))
    model.get_base_model().supports_gradient_checkpointing = False
    from danlu.errors import ModelError

    with pytest.raises(ModelError, match="does not support activation checkpointing"):
        checkpoint_activations(model, 1.0)


def test_holes_are_closed_every_ten_layers_until_it_is_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    monkeypatch.setattr("danlu.training.memory.close_holes", lambda: closed.append(1))
    model = model_of(LlamaConfig(**{**SIZES, "num_hidden_layers": 21}))
    off = close_holes_on_the_way(model)
    model(input_ids=torch.tensor([[1, 2]]))
    assert len(closed) == 2, "after layers 10 and 20 of 21"
    off()
    model(input_ids=torch.tensor([[1, 2]]))
    assert len(closed) == 2
