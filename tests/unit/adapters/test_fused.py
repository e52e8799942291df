"""Layers that share an input are computed once, whatever happens between their calls; all can be taken out again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import SIZES
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from danlu.adapters import fused as fused_module
from danlu.adapters.fused import FusedMlp, FusedNorm, fuse
from danlu.adapters.kinds import Lora
from danlu.adapters.linear import FusedLinear, SharedInput
from danlu.adapters.lora import add_adapter
from danlu.kernels import low_rank

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.arange(20, 60).reshape(2, 20)


def adapted(dropout: float = 0.0, targets: list[str] = ALL, **changes: Any) -> Any:
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes})).eval()
    return with_b(add_adapter(base, Lora(4, 8.0, dropout), targets, 0))


def with_b(model: Any) -> Any:
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def attention_of(model: Any) -> tuple[FusedLinear, FusedLinear, FusedLinear]:
    attention = model.get_base_model().model.layers[0].self_attn
    return attention.q_proj, attention.k_proj, attention.v_proj


def pair() -> tuple[Any, Any]:
    """A model as PEFT computes it, and the same fused."""
    plain = adapted()
    other = copy.deepcopy(plain)
    fuse(other)
    return plain, other


def some_input(seed: int = 1) -> torch.Tensor:
    return torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(seed))


def outputs_of(layers: Any, x: torch.Tensor) -> list[torch.Tensor]:
    return [layer(x) for layer in layers]


def require_close(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).detach().norm() / other.detach().norm()) < 1e-5


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many layers each call of the kernel computed."""
    sizes: list[int] = []
    right = low_rank.low_rank

    def note(x: Any, layers: Any, dropped: Any = None) -> Any:
        sizes.append(len(layers))
        return right(x, layers, dropped)

    monkeypatch.setattr(low_rank, "low_rank", note)
    return sizes


def test_layers_that_share_an_input_are_one_call(computed: list[int]) -> None:
    plain, model = pair()
    computed.clear()
    require_close(outputs_of(attention_of(model), x := some_input()), outputs_of(attention_of(plain), x))
    assert computed == [3]
    computed.clear()
    with torch.no_grad():
        model(input_ids=IDS, use_cache=False)
    assert computed == [3, 1, 2, 1] * 2  # q k v, o, gate up, down


def test_the_same_input_again_is_computed_again() -> None:
    plain, model = pair()
    x = some_input()
    first, second = outputs_of(attention_of(model), x), outputs_of(attention_of(model), x)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert all(one is not other for one, other in zip(first, second, strict=True))
    query = attention_of(model)[0]
    require_close([query(x), query(x), query(x)], [attention_of(plain)[0](x)] * 3)
    require_close(outputs_of(attention_of(model)[::-1], x), outputs_of(attention_of(plain)[::-1], x))


def test_after_an_aborted_pass_another_input_gets_its_own_outputs() -> None:
    plain, model = pair()
    query, key, value = attention_of(model)
    query(some_input(1))  # what was made for key and value is never taken
    other = some_input(2)
    require_close([key(other), value(other)], outputs_of(attention_of(plain)[1:], other))
    require_close(outputs_of((query, key, value), other), outputs_of(attention_of(plain), other))


def test_after_an_aborted_pass_and_a_step_no_old_weights_are_used() -> None:
    plain, model = pair()
    x = some_input()
    attention_of(model)[0](x)
    for one in (plain, model):
        with torch.no_grad():
            for layer in attention_of(one):
                layer.lora_B["default"].weight.mul_(3)
    require_close(outputs_of(attention_of(model)[1:], x), outputs_of(attention_of(plain)[1:], x))


def test_an_input_that_was_changed_in_place_is_computed_again() -> None:
    plain, model = pair()
    x = some_input()
    query, key, value = attention_of(model)
    query(x)
    x.mul_(2)
    require_close([key(x), value(x)], outputs_of(attention_of(plain)[1:], x))


@pytest.mark.parametrize("first", [torch.no_grad, torch.inference_mode])
def test_what_was_computed_without_gradients_is_not_given_to_who_wants_them(first: Callable[[], Any]) -> None:
    plain, model = pair()
    x = some_input()
    with first():
        attention_of(model)[0](x)
    outputs = outputs_of(attention_of(model)[1:], x)
    assert all(output.requires_grad for output in outputs)
    sum(output.sum() for output in outputs).backward()
    sum(output.sum() for output in outputs_of(attention_of(plain)[1:], x)).backward()
    for found, expected in zip(attention_of(model)[1:], attention_of(plain)[1:], strict=True):
        require_close(
            [found.lora_A["default"].weight.grad, found.lora_B["default"].weight.grad],
            [expected.lora_A["default"].weight.grad, expected.lora_B["default"].weight.grad],
        )


def test_what_was_computed_in_inference_mode_is_not_given_outside_it() -> None:
    _, model = pair()
    x = some_input()
    with torch.inference_mode():
        attention_of(model)[0](x)
    with torch.no_grad():
        assert not any(output.is_inference() for output in outputs_of(attention_of(model)[1:], x))


def test_inputs_of_inference_mode_are_computed_layer_by_layer(computed: list[int]) -> None:
    plain, model = pair()
    computed.clear()
    with torch.inference_mode():
        x = some_input()
        require_close(outputs_of(attention_of(model), x), outputs_of(attention_of(plain), x))
        assert computed == [1, 1, 1]
        expected = plain(input_ids=IDS, use_cache=False).logits
        require_close([model(input_ids=IDS, use_cache=False).logits], [expected])


def test_nothing_is_held_once_all_layers_were_called() -> None:
    _, model = pair()
    shared = attention_of(model)[0].shared
    assert isinstance(shared, SharedInput)
    outputs_of(attention_of(model), some_input())
    assert shared._input is None
    assert not shared._waiting


def test_in_training_each_layer_drops_as_peft_itself_does() -> None:
    plain = adapted(dropout=0.5)
    model = copy.deepcopy(plain)
    fuse(model)
    x = some_input()
    results = []
    for one in (plain, model):
        one.train()
        torch.manual_seed(5)
        given = x.clone().requires_grad_()
        outputs = outputs_of(attention_of(one), given)
        sum(output.square().sum() for output in outputs).backward()
        adapters = [a[name].weight.grad for layer in attention_of(one) for a, name in [(layer.lora_A, "default")]]
        results.append([*outputs, given.grad, *adapters])
    require_close(results[1], results[0])
    model.eval()
    assert float((attention_of(model)[0](x) - results[0][0]).detach().norm()) > 0.1
    require_close(outputs_of(attention_of(model), x), outputs_of(attention_of(plain.eval()), x))


def test_without_adapters_the_base_answers() -> None:
    plain, model = pair()
    with torch.no_grad(), model.disable_adapter(), plain.disable_adapter():
        expected = plain(input_ids=IDS, use_cache=False).logits
        found = model(input_ids=IDS, use_cache=False).logits
    require_close([found], [expected])
    with torch.no_grad():
        assert not torch.allclose(model(input_ids=IDS, use_cache=False).logits, expected, atol=1e-2)
        base = plain.unload()(input_ids=IDS, use_cache=False).logits
    assert torch.equal(base, expected)


def test_merged_adapters_answer_as_they_did_apart() -> None:
    _, model = pair()
    with torch.no_grad():
        expected = model(input_ids=IDS, use_cache=False).logits
        model.merge_adapter()
        torch.testing.assert_close(model(input_ids=IDS, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)
        model.unmerge_adapter()
        torch.testing.assert_close(model(input_ids=IDS, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)


def gpt2() -> Any:
    torch.manual_seed(0)
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}
    base = GPT2LMHeadModel(GPT2Config(vocab_size=300, bos_token_id=None, eos_token_id=None, **sizes)).eval()
    return with_b(add_adapter(base, Lora(4, 8.0), ["c_attn", "c_fc", "c_proj"], 0))


def test_adapters_on_transposed_weights_merge_into_what_they_gave() -> None:
    model = gpt2()
    with torch.no_grad():
        expected = model(input_ids=IDS, use_cache=False).logits
        merged = model.merge_and_unload()(input_ids=IDS, use_cache=False).logits
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)


def test_a_layer_that_is_called_twice_stands_alone(computed: list[int]) -> None:
    plain = adapted()
    layers = plain.get_base_model().model.layers
    layers[1].self_attn.k_proj = layers[0].self_attn.k_proj
    model = copy.deepcopy(plain)
    assert fuse(model).linears == 12
    assert model.get_base_model().model.layers[0].self_attn.k_proj.shared is None
    with torch.no_grad():
        expected = plain(input_ids=IDS, use_cache=False).logits
        require_close([model(input_ids=IDS, use_cache=False).logits], [expected])
    assert max(computed) == 2


def test_fusing_and_taking_out_changes_no_module_s_mode() -> None:
    model = adapted(dropout=0.5)  # the base evaluates, the adapters are in training mode
    before = {name: module.training for name, module in model.named_modules()}
    assert set(before.values()) == {False, True}
    done = fuse(model)
    assert (done.linears, done.norms, done.mlps) == (14, 5, 2)  # dropout does not hide a gated MLP
    unlike = {name for name, module in model.named_modules() if module.training != before[name]}
    assert all(isinstance(model.get_submodule(name), FusedNorm | FusedMlp) for name in unlike)
    done.off()
    assert {name: module.training for name, module in model.named_modules()} == before


def test_a_failure_midway_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("no such formula")

    model = adapted()
    before = {name: (id(module), type(module)) for name, module in model.named_modules()}
    monkeypatch.setattr(fused_module, "_activation", failing)
    with pytest.raises(RuntimeError, match="no such formula"):
        fuse(model)
    assert {name: (id(module), type(module)) for name, module in model.named_modules()} == before
    assert not any(module.shared for module in model.modules() if isinstance(module, FusedLinear))


def test_a_norm_that_wants_more_than_its_input_is_passed_over() -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen3_next",
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        shared_expert_intermediate_size=48,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        layer_types=["linear_attention", "full_attention"],
    )
    base = AutoModelForCausalLM.from_config(config).eval()
    model = with_b(add_adapter(base, Lora(4, 8.0), ["q_proj", "k_proj", "v_proj", "o_proj"], 0))
    with torch.no_grad():
        expected = model(input_ids=IDS, use_cache=False).logits
        done = fuse(model)
        assert done.linears == 4
        assert done.norms == 7  # two of each layer, those of queries and keys, and the last
        require_close([model(input_ids=IDS, use_cache=False).logits], [expected])


def test_a_trained_norm_or_another_activation_is_not_fused() -> None:
    model = adapted()
    model.get_base_model().model.norm.weight.requires_grad_()
    done = fuse(model)
    assert (done.norms, done.mlps) == (4, 2)
    done = fuse(adapted(hidden_act="relu"))
    assert (done.norms, done.mlps) == (5, 0)
