"""Dropout goes where a family has it, else on what attention and MLP add; in training alone, and out again."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from kernels_there import THERE, needs_kernels
from small_models import SIZES
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from danlu.adapters.kinds import Lora
from danlu.adapters.lora import add_adapter
from danlu.adapters.targets import resolve_targets, skeleton
from danlu.data.template import Document
from danlu.errors import RecipeError
from danlu.models.loading import load_base
from danlu.training.dropout import BaseDropout, added_by, drops_out
from danlu.training.engine import Engine, choose_engine
from danlu.training.feed import to_batches
from danlu.training.memory import checkpoint_activations

CPU = torch.device("cpu")
HEADS = {"head_dim": 16}
GEMMA = {**HEADS, "query_pre_attn_scalar": 16, "sliding_window": 8}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 4}
# What is not SIZES; dropout that configs have by themselves is taken off.
CHANGES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "gpt2": {"n_inner": 96, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "gpt_neox": {"attention_dropout": 0.0, "hidden_dropout": 0.0},
    "opt": {"word_embed_proj_dim": 64, "ffn_dim": 96, "dropout": 0.0, "attention_dropout": 0.0, "init_std": 0.2},
    "phi": {},
    "phi3": {},
    "starcoder2": {"residual_dropout": 0.0, "embedding_dropout": 0.0, "attention_dropout": 0.0},
    "olmo2": {},
    "cohere": {},
    "granite": {"residual_multiplier": 0.5},
    "granitemoe": EXPERTS,
    "mixtral": EXPERTS,
    "glm4": HEADS,
    "apertus": {},
    "ernie4_5": {},
}
# The fields that are set for 0.1 of the attention and 0.2 of the states.
FIELDS: dict[str, dict[str, float]] = {
    "llama": {"attention_dropout": 0.1},
    "qwen2": {"attention_dropout": 0.1},
    "gemma2": {"attention_dropout": 0.1},
    "gpt2": {"attn_pdrop": 0.1, "resid_pdrop": 0.2, "embd_pdrop": 0.2},
    "gpt_neox": {"attention_dropout": 0.1, "hidden_dropout": 0.2},
    "opt": {"attention_dropout": 0.1, "dropout": 0.2},
    "phi": {"attention_dropout": 0.1, "resid_pdrop": 0.2, "embd_pdrop": 0.2},
    "phi3": {"attention_dropout": 0.1, "resid_pdrop": 0.2},  # its config has embd_pdrop, which no module reads
    "starcoder2": {"attention_dropout": 0.1, "residual_dropout": 0.2, "embedding_dropout": 0.2},
}
HOOKED = [kind for kind in CHANGES if kind not in FIELDS or len(FIELDS[kind]) == 1]
IDS = torch.randint(10, 300, (1, 24), generator=torch.Generator().manual_seed(1))


def config_of(kind: str, **changes: Any) -> Any:
    return AutoConfig.for_model(kind, **{**SIZES, **CHANGES[kind], **changes})


def model_of(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config_of(kind, **changes)).eval()


def shape_of(kind: str) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config_of(kind))


def logits_of(model: Any, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return logits


@pytest.mark.parametrize("kind", FIELDS)
def test_the_fields_that_the_family_reads_are_set_and_no_others(kind: str) -> None:
    found = BaseDropout.of(shape_of(kind), 0.1, 0.2)
    assert found.fields == FIELDS[kind]
    assert found.added == (0.2 if kind in HOOKED else 0.0)
    assert BaseDropout.of(shape_of(kind), None, None) == BaseDropout({})
    alone = BaseDropout.of(shape_of(kind), 0.1, None)
    assert alone.added == 0.0
    assert alone.fields == {name: share for name, share in FIELDS[kind].items() if share == 0.1}


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize(("attention", "hidden"), [(0.3, None), (None, 0.3), (0.3, 0.3)])
def test_each_share_is_dropped_in_training_alone(
    kind: str, attention: float | None, hidden: float | None, tmp_path: Path
) -> None:
    model_of(kind).save_pretrained(tmp_path)
    dropout = BaseDropout.of(skeleton(tmp_path), attention, hidden)
    plain = load_base(tmp_path, torch.float32)
    expected = logits_of(plain)
    assert torch.equal(logits_of(plain.train()), expected), "this family drops out nothing by itself"
    model = load_base(tmp_path, torch.float32, config_fields=dropout.fields)
    off = dropout.put_in(model)
    assert torch.equal(logits_of(model), expected)
    model.train()
    assert not torch.allclose(logits_of(model, 1), expected)
    assert not torch.allclose(logits_of(model, 1), logits_of(model, 2))
    assert torch.equal(logits_of(model, 1), logits_of(model, 1))
    off()
    assert torch.equal(logits_of(model, 1), expected) == (not dropout.fields)


def test_null_leaves_a_base_its_own_dropout_and_0_takes_it_away(tmp_path: Path) -> None:
    model_of("gpt2", attn_pdrop=0.1, resid_pdrop=0.1, embd_pdrop=0.1).save_pretrained(tmp_path)
    shape = skeleton(tmp_path)
    kept = load_base(tmp_path, torch.float32, config_fields=BaseDropout.of(shape, None, None).fields)
    assert drops_out(kept.config)
    assert not torch.allclose(logits_of(kept.train(), 1), logits_of(kept, 2))
    off = load_base(tmp_path, torch.float32, config_fields=BaseDropout.of(shape, 0.0, 0.0).fields)
    assert not drops_out(off.config)
    assert torch.equal(logits_of(off.train(), 1), logits_of(off.eval(), 2))


def test_the_shape_that_is_asked_stays_as_it_was() -> None:
    shape = shape_of("gpt2")
    before = shape.config.to_dict()
    BaseDropout.of(shape, 0.1, 0.2)
    assert shape.config.to_dict() == before


@pytest.mark.parametrize(
    ("kind", "attention", "hidden", "key"),
    [
        ("ernie4_5", 0.1, None, "attention"),
        ("lfm2", None, 0.1, "hidden"),
        ("mamba", None, 0.1, "hidden"),
        ("afmoe", None, 0.1, "hidden"),  # has norms behind attention and MLP that are not known here
    ],
)
def test_what_a_family_can_t_drop_out_is_said_with_the_key(
    kind: str, attention: float | None, hidden: float | None, key: str
) -> None:
    with torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES))
    with pytest.raises(RecipeError, match=rf"(?s)training\.base_dropout\.{key}.*hint:") as caught:
        BaseDropout.of(shape, attention, hidden)
    assert "this base drops out no" in str(caught.value)
    nothing = BaseDropout.of(shape, None if attention is None else 0.0, None if hidden is None else 0.0)
    assert (nothing.fields, nothing.added) == ({}, 0.0), "0 is what it does anyway"


def test_a_base_with_one_dropout_for_both_wants_the_same_share_for_both() -> None:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 2, "vocab_size": 50}
    with torch.device("meta"):
        shape = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", **sizes))
    assert BaseDropout.of(shape, 0.3, 0.3).fields == {"dropout_rate": 0.3}
    for attention, hidden in ((0.3, 0.2), (0.3, None), (None, 0.3)):
        with pytest.raises(RecipeError, match="one dropout for attention and states"):
            BaseDropout.of(shape, attention, hidden)


class _Layers:
    """What each layer of a model is given and gives, with what its modules add multiplied."""

    def __init__(self, model: Any) -> None:
        self._model, self._added = model, added_by(model)
        self._layers = list(model.get_decoder().layers)

    def run(self, of_attention: float, of_mlp: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
        passed: list[tuple[torch.Tensor, torch.Tensor]] = []

        def scale(factor: float, _module: Any, _given: Any, output: Any) -> Any:
            return (output[0] * factor, *output[1:]) if isinstance(output, tuple) else output * factor

        def note(_module: Any, given: Any, output: Any) -> None:
            passed.append((given[0], output[0] if isinstance(output, tuple) else output))

        hooks = [
            module.register_forward_hook(functools.partial(scale, (of_attention, of_mlp)[place % 2]))
            for place, module in enumerate(self._added)
        ]
        hooks += [layer.register_forward_hook(note) for layer in self._layers]
        try:
            logits_of(self._model)
        finally:
            for hook in hooks:
                hook.remove()
        return passed


@pytest.mark.parametrize("kind", HOOKED)
def test_the_hooked_modules_add_all_that_a_layer_adds_and_in_proportion(kind: str) -> None:
    """Without them a layer gives back its input; twice the output of one adds twice as much, behind any norm."""
    model = model_of(kind)
    assert len(added_by(model)) == 2 * 2
    layers = _Layers(model)
    for given, output in layers.run(0.0, 0.0):
        assert torch.equal(given, output)
    for one in ((1.0, 0.0), (0.0, 1.0)):
        twice = (2 * one[0], 2 * one[1])
        # The first layer alone is given the same both times.
        (given, once), (same, double) = layers.run(*one)[0], layers.run(*twice)[0]
        assert torch.equal(given, same)
        assert float((once - given).norm()) > 1e-3 * float(given.norm())
        torch.testing.assert_close(double - given, 2 * (once - given), rtol=1e-4, atol=1e-5)


def test_what_is_added_is_dropped_as_torch_s_dropout_does() -> None:
    model = model_of("llama")
    mlp = model.get_decoder().layers[0].mlp
    x = torch.randn(1, 40, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = mlp(x)
        off = BaseDropout({}, 0.25).put_in(model)
        assert torch.equal(mlp(x), expected), "evaluation drops nothing"
        model.train()
        torch.manual_seed(4)
        dropped = mlp(x)
        torch.manual_seed(4)
        assert torch.equal(dropped, torch.nn.functional.dropout(expected, 0.25))
        # 2560 draws: the share's standard deviation is 0.0086, and 0.035 is four of them.
        assert float((dropped == 0).double().mean()) == pytest.approx(0.25, abs=0.035)
        mean = torch.stack([mlp(x) for _ in range(1000)]).mean(0)
        # A mean of 1000 is off by √(0.25 / 0.75 / 1000) = 0.018 of each number, so of the norm.
        assert float((mean - expected).norm()) < 0.025 * float(expected.norm())
        off()
        assert torch.equal(mlp(x), expected)
    assert not any(module._forward_hooks for module in added_by(model))


def some_documents() -> list[Document]:
    numbers = torch.randint(10, 300, (4, 60), generator=torch.Generator().manual_seed(1)).tolist()
    return [
        Document((5, 6, 7, *row[:length]), ((6, 3 + length),))
        for row, length in zip(numbers, (9, 30, 14, 41), strict=True)
    ]


def tuned(kind: str, attention: float | None = None, hidden: float | None = None) -> tuple[Any, Engine]:
    """A model with LoRA on all layers, with all kernels in, that drops out such shares."""
    dropout = BaseDropout.of(shape_of(kind), attention, hidden)
    base = model_of(kind, **dropout.fields)
    model = add_adapter(base, Lora(4, 8.0, 0.0), resolve_targets(base, "all-linear"), 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(3))
    engine = choose_engine(model, some_documents())
    assert (engine.attention, engine.layers) == ("packed", "fused") or not THERE
    dropout.put_in(model)
    return model, engine


def step_of(model: Any, engine: Engine, seed: int) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of all documents in one pack, in training mode."""
    model.train()
    torch.manual_seed(seed)
    (batch,) = to_batches(some_documents(), 1 << 20, True, CPU)
    loss, weight = engine.objective(model, batch)
    loss.backward()
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad]
    model.zero_grad(set_to_none=True)
    return loss.item() / weight, found


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "qwen2"])
def test_fused_and_packed_models_drop_out_as_well_and_checkpointed_layers_the_same(kind: str) -> None:
    losses = []
    for shares in ((), (0.3, None), (None, 0.3), (0.3, 0.3)):
        model, engine = tuned(kind, *shares)
        loss, gradients = step_of(model, engine, 1)
        losses.append(loss)
    assert all(one != pytest.approx(other, rel=1e-3) for one, other in itertools.combinations(losses, 2))
    checkpoint_activations(model, 1.0)
    again, same = step_of(model, engine, 1)
    assert again == losses[-1]
    assert all(torch.equal(one, other) for one, other in zip(same, gradients, strict=True))


@needs_kernels
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "qwen2"])
def test_under_dropout_a_packed_document_s_gradients_need_nothing_of_its_neighbour(kind: str) -> None:
    """The loss of the first document has no gradient at the embeddings of the second's own tokens."""
    model, _ = tuned(kind, 0.3, 0.3)
    model.train()
    first, second = some_documents()[:2]
    (batch,) = to_batches([first, second], 1 << 20, True, CPU)
    embedded: list[torch.Tensor] = []

    def note(_module: Any, _given: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    hook = model.get_input_embeddings().register_forward_hook(note)
    states = model.get_decoder()(
        input_ids=batch.ids, position_ids=batch.positions, use_cache=False, **batch.layout
    ).last_hidden_state
    hook.remove()
    states[0, : len(first.ids)].square().sum().backward()
    assert embedded[0].grad is not None
    sizes = embedded[0].grad[0].norm(dim=-1)
    assert bool((sizes[: len(first.ids)] > 0).all())
    assert not sizes[len(first.ids) :].any()
