"""Adapters of every kind train in our loop, are read by plain PEFT, merge, and leave the base's answers alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from kernels_there import THERE
from peft import PeftModel
from small_models import SIZES
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig

from danlu.adapters.fitting import fit_adapter
from danlu.adapters.kinds import KINDS, Adapter, Ia3, Loha, Lokr, Lora, Vera
from danlu.adapters.lora import add_adapter, load_adapter, save_adapter
from danlu.data.store import Store
from danlu.data.template import Document
from danlu.errors import RecipeError
from danlu.recipe.schema import Recipe
from danlu.training.backends.replicated import Replicated
from danlu.training.engine import choose_engine
from danlu.training.feed import Feed
from danlu.training.loop import Course, train
from danlu.training.optimizers import make_optimizer

MakeStore = Callable[[Sequence[Document]], Store]
IDS = torch.arange(20, 60).reshape(2, 20)
LLAMA = LlamaConfig(**SIZES)
TIED = LlamaConfig(**SIZES, tie_word_embeddings=True)
GPT2 = GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, bos_token_id=None)
ADAPTERS: dict[str, Adapter] = {
    "lora": Lora(4, 8.0),
    "ia3": Ia3(feedforward_modules=["down_proj"], modules_to_save=["norm"]),
    "loha": Loha(4, 8.0, rank_pattern={"q_proj": 2, "1.self_attn.q_proj": 3}, layers_to_transform=[1]),
    "lokr": Lokr(4, 8.0, decompose_both=True, decompose_factor=8, alpha_pattern={"v_proj": 2.0}),
    "vera": Vera(80, layers_to_transform=[0, 1]),
}
RATE = 2e-2


def base_of(config: PreTrainedConfig = LLAMA, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def put_on(base: Any, adapter: Adapter) -> Any:
    return add_adapter(base, *fit_adapter(base, adapter, "all-linear"), 3).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def require_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((found - expected).norm()) <= 2e-5 * float(expected.norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_starts_as_its_base_and_is_float32(kind: str, dtype: torch.dtype) -> None:
    model = put_on(base_of(dtype=dtype), ADAPTERS[kind])
    assert torch.equal(logits(model), logits(base_of(dtype=dtype)))
    adapters = [one for name, one in model.named_parameters() if one.requires_grad and "modules_to_save" not in name]
    assert {parameter.dtype for parameter in adapters} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_is_saved_and_merged(kind: str, make_store: MakeStore, tmp_path: Path) -> None:
    numbers = torch.randint(10, 60, (6, 30), generator=torch.Generator().manual_seed(1)).tolist()
    store = make_store([Document((5, 6, 7, *row[: 9 + 3 * n]), ((6, 11),)) for n, row in enumerate(numbers)])
    model = put_on(base_of(), ADAPTERS[kind])
    engine = choose_engine(model, store)
    adapted = sum(hasattr(module, "base_layer") for module in model.modules())
    layers = "fused" if kind == "lora" else f"fused (0 of {adapted} adapted)"
    assert engine.name == f"packed attention, {layers} layers, chunked loss" or not THERE
    feed = Feed(store, 8, 3, 0, 100, engine.shares_prefix, torch.device("cpu"))
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    backend = Replicated(model, trained, lambda masters: make_optimizer(masters, "adamw", RATE, (0.9, 0.99), 0.0))
    losses = [step.loss for step in train(model, engine.objective, feed, backend, Course(lambda _: RATE, 1.0))]
    engine.off()
    assert losses[-1] < 0.9 * losses[0]

    expected = logits(model.eval())
    save_adapter(model, tmp_path / "adapter", "some/base")
    require_close(logits(PeftModel.from_pretrained(base_of(), tmp_path / "adapter").eval()), expected)
    loaded = load_adapter(base_of(), tmp_path / "adapter")
    require_close(logits(loaded), expected)
    for one in (model, loaded):
        with one.disable_adapter():
            assert torch.equal(logits(one), logits(base_of()))
    loaded.merge_and_unload(safe_merge=True).save_pretrained(tmp_path / "merged")
    require_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_is_that_of_the_first_values(kind: str) -> None:
    if kind == "ia3":
        pytest.skip("all of its values start at 1")
    state = [
        add_adapter(base_of(), *fit_adapter(base_of(), ADAPTERS[kind], "attention"), seed).base_model.state_dict()
        for seed in (1, 1, 2)
    ]
    assert all(torch.equal(state[1][name], value) for name, value in state[0].items())
    assert any(not torch.equal(state[2][name], value) for name, value in state[0].items())


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_what_peft_has_not_on_transposed_weights_is_refused(kind: str) -> None:
    with pytest.raises(RecipeError) as caught:
        fit_adapter(base_of(GPT2), KINDS[kind](rank=4, alpha=8.0), "all-linear")
    assert [fault.where for fault in caught.value.faults] == ["adapter.type"]
    for other in (Ia3(feedforward_modules=["c_fc"]), Vera(16)):
        require_close(logits(put_on(base_of(GPT2), other)), logits(base_of(GPT2)))


@pytest.mark.parametrize("kind", ["ia3", "loha", "lokr", "vera"])
def test_a_tied_head_that_would_be_split_in_two_is_refused(kind: str) -> None:
    sizes = {} if kind == "ia3" else {"rank": 4} if kind == "vera" else {"rank": 4, "alpha": 8.0}
    with pytest.raises(RecipeError, match="one matrix"):
        fit_adapter(base_of(TIED), KINDS[kind](**sizes, modules_to_save=["lm_head"]), "all-linear")


def test_feedforward_modules_must_be_among_the_targets() -> None:
    with pytest.raises(RecipeError) as caught:
        fit_adapter(base_of(), Ia3(feedforward_modules=["down_proj", "q_proj"]), ["q_proj", "v_proj"])
    assert [fault.where for fault in caught.value.faults] == ["adapter.feedforward_modules"]
    assert "q_proj, v_proj" in caught.value.faults[0].allowed


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_the_recipe_has_its_value(kind: str) -> None:
    recipe = {"model": {"name": "m"}, "data": {"train": ["r"]}, "adapter": {"type": kind}, "training": {}}
    section = Recipe.model_validate_json(json.dumps(recipe)).adapter
    assert section is not None
    values = section.model_dump(exclude={"type", "target_modules"})
    adapter = KINDS[kind](**values)
    assert {name: getattr(adapter, name) for name in values} == values
