"""Packed layers compute what they did; what others hold is not held twice; what can't be packed stays."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from adapted_models import make_base

from danlu.models.packed import PackedLinear, can_pack, pack_linear_layers

HERE = torch.device("cpu")
pytestmark = pytest.mark.skipif(not can_pack(HERE, torch.float32), reason="needs oneDNN")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("packs", [True, False])
def test_a_packed_layer_computes_what_the_layer_does(dtype: torch.dtype, bias: bool, packs: bool) -> None:
    if not can_pack(HERE, dtype):
        pytest.skip("this processor does not multiply in it")
    torch.manual_seed(0)
    layer = torch.nn.Linear(72, 200, bias=bias, dtype=dtype)
    packed = PackedLinear(layer, packs)
    for rows in (1, 2, 8, 31, 200):
        x = torch.randn(rows, 3, 72, dtype=dtype)
        exact = torch.nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
        with torch.inference_mode():
            found = packed(x)
        assert found.shape == exact.shape
        assert found.dtype is dtype
        error = (found.double() - exact).norm() / exact.norm()
        assert float(error.detach()) < (1e-6 if dtype is torch.float32 else 4e-3)


def test_the_numbers_are_the_same_ones() -> None:
    layer = torch.nn.Linear(72, 200)
    assert torch.equal(PackedLinear(layer, True).packed.to_dense(), layer.weight.detach())


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "bloom"])
def test_a_model_says_the_same(family: str, tokenizer: Any) -> None:
    model = make_base(family, len(tokenizer))
    ids = torch.arange(40).reshape(2, 20)
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        count = pack_linear_layers(model)
        after = model(input_ids=ids).logits
    assert count == sum(isinstance(one, PackedLinear) for one in model.modules()) > 0
    assert not any(type(one) is torch.nn.Linear for one in model.modules())
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_a_head_that_is_the_embeddings_stays_the_same_memory(tokenizer: Any) -> None:
    model = make_base("llama", len(tokenizer))
    model.lm_head.weight = model.model.embed_tokens.weight
    pack_linear_layers(model)
    assert model.lm_head.packed.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert model.model.layers[0].self_attn.q_proj.packed.is_mkldnn


def test_what_can_not_be_packed_stays() -> None:
    class Other(torch.nn.Linear):  # as bitsandbytes' are
        pass

    model = torch.nn.ModuleList([Other(4, 4), torch.nn.Linear(4, 4, dtype=torch.float16), torch.nn.Linear(4, 4)])
    model.append(torch.nn.Linear(4, 4, device="meta"))
    assert pack_linear_layers(model) == 1
    assert [type(one) for one in model] == [Other, torch.nn.Linear, PackedLinear, torch.nn.Linear]


def test_no_weight_is_in_memory_twice() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    held = [weakref.ref(layer) for layer in model]
    pack_linear_layers(model)
    assert [one() for one in held] == [None, None]
