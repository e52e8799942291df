"""A quantised base is the base with the weights that its bits stand for, before and after everything done with it."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from danlu.adapters.kinds import Lora
from danlu.adapters.lora import add_adapter
from danlu.errors import ModelError, RecipeError
from danlu.models import quantization as quantization_module
from danlu.models.loading import load_base, load_plain, require_dtype
from danlu.models.quantization import compute_in, dequantized, quantized_layers, require_quantizable
from danlu.recipe.model_schema import EightBitQuantization, FourBitQuantization, Quantization

pytest.importorskip("bitsandbytes")

NF4 = FourBitQuantization(type="nf4", double=True)
KINDS: dict[str, Quantization] = {
    "nf4": NF4,
    "nf4 once": FourBitQuantization(type="nf4", double=False),
    "fp4": FourBitQuantization(type="fp4", double=True),
    "int8": EightBitQuantization(type="int8"),
}
IDS = torch.arange(20, 60).reshape(2, 20)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# The 16 values of NF4: QLoRA, arXiv 2305.14314, appendix E.
NF4_VALUES = torch.tensor(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
        *(0.7229568362236023, 1.0),
    ],
    dtype=torch.float64,
)

needs_avx512_bf16 = pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_bf16"), reason="weights are packed on AVX512-BF16 alone"
)


def load(folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> Any:
    return load_base(folder, dtype, quantization=KINDS[kind])


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits.float()
    return found


def gradients(model: Any) -> list[torch.Tensor]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.train()
    model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    found = [parameter.grad.clone() for parameter in trained]
    model.zero_grad()
    return found


def adapted(base: Any) -> Any:
    """PEFT's own layers on a base, with an adapter that does something."""
    model = add_adapter(base, Lora(4, 8.0, 0.0), ALL, 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_linear_layers_alone_are_kept_in_fewer_bits(tiny_base: Path, kind: str) -> None:
    model = load(tiny_base, kind, torch.bfloat16)
    names = {name.rsplit(".", 1)[-1] for name, _ in quantized_layers(model)}
    assert names == set(ALL)
    assert len(list(quantized_layers(model))) == 14
    assert model.lm_head.weight is model.model.embed_tokens.weight, "still tied"
    plain = load_base(tiny_base, torch.bfloat16)
    assert torch.equal(model.lm_head.weight, plain.lm_head.weight)
    kept = sum(layer.weight.nbytes for _, layer in quantized_layers(model))
    before = sum(plain.get_submodule(name).weight.nbytes for name, _ in quantized_layers(model))
    assert kept * (2 if kind == "int8" else 4) == before


def test_an_untied_head_is_not_quantised(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).save_pretrained(tmp_path)
    model = load(tmp_path, "nf4")
    assert "lm_head" not in dict(quantized_layers(model))
    assert type(model.lm_head) is torch.nn.Linear


def test_nf4_weights_are_the_nearest_of_the_papers_values_in_each_block_of_64(tiny_base: Path) -> None:
    plain = load_base(tiny_base, torch.float32)
    for name, layer in quantized_layers(load(tiny_base, "nf4 once")):
        blocks = plain.get_submodule(name).weight.detach().double().reshape(-1, 64)
        largest = blocks.abs().amax(1, keepdim=True)
        nearest = ((blocks / largest).unsqueeze(-1) - NF4_VALUES).abs().argmin(-1)
        expected = (NF4_VALUES[nearest] * largest).reshape(layer.out_features, layer.in_features)
        assert torch.allclose(dequantized(layer, torch.float32).double(), expected, rtol=1e-6, atol=1e-7)


def test_double_quantisation_changes_the_largest_of_a_block_by_little(tiny_base: Path) -> None:
    pairs = zip(quantized_layers(load(tiny_base, "nf4")), quantized_layers(load(tiny_base, "nf4 once")), strict=True)
    for (_, twice), (_, once) in pairs:
        found, expected = dequantized(twice, torch.float32), dequantized(once, torch.float32)
        assert 0 < float((found - expected).norm() / expected.norm()) < 0.01  # 8 bits of a range around their mean


def test_int8_weights_are_each_row_in_127_steps(tiny_base: Path) -> None:
    plain = load_base(tiny_base, torch.float32)
    for name, layer in quantized_layers(load(tiny_base, "int8")):
        weight = plain.get_submodule(name).weight.detach().double()
        step = weight.abs().amax(1, keepdim=True) / 127
        apart = (dequantized(layer, torch.float32).double() - weight).abs() / step
        # Half a step, and what bitsandbytes' float16 on the way adds: 2^-11 of at most 127 steps.
        assert float(apart.max()) <= 0.5 + 127 * 2**-11
        assert len((dequantized(layer, torch.float32)[0] / step[0].float()).round().unique()) > 40


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_weights_say_what_the_quantised_base_says(tiny_base: Path, kind: str) -> None:
    quantised = compute_in(load(tiny_base, kind, torch.bfloat16), torch.float32)
    plain = load_plain(tiny_base, torch.bfloat16, KINDS[kind])
    assert not any(quantized_layers(plain))
    assert getattr(plain.config, "quantization_config", None) is None
    expected = logits(plain)
    # The same float32 weights: the products of one layer differ by the order of their sums alone.
    assert float((logits(quantised) - expected).norm() / expected.norm()) < 1e-5
    assert float((logits(load_base(tiny_base, torch.float32)) - expected).norm() / expected.norm()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_weights_stored_transposed_keep_their_sides(tmp_path: Path, kind: str) -> None:
    config = GPT2Config(vocab_size=300, n_embd=64, n_layer=1, n_head=4, n_positions=64, initializer_range=0.2)
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    quantised = load(tmp_path, kind)
    assert len(list(quantized_layers(quantised))) == 4
    expected = logits(quantised)
    assert float((logits(load_plain(tmp_path, torch.float32, KINDS[kind])) - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_computing_in_another_dtype_keeps_every_bit(tiny_base: Path, kind: str) -> None:
    model = load(tiny_base, kind, torch.bfloat16)
    before = [layer.weight.data.clone() for _, layer in quantized_layers(model)]
    weights = [dequantized(layer, torch.float32) for _, layer in quantized_layers(model)]
    assert compute_in(model, torch.float32) is model
    assert model.dtype == torch.float32
    after = [layer.weight.data for _, layer in quantized_layers(model)]
    assert all(torch.equal(one, other) for one, other in zip(after, before, strict=True))
    now = [dequantized(layer, torch.float32) for _, layer in quantized_layers(model)]
    assert all(torch.equal(one, other) for one, other in zip(now, weights, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_float32_are_those_of_the_plain_weights(tiny_base: Path, kind: str) -> None:
    quantised = adapted(compute_in(load(tiny_base, kind, torch.bfloat16), torch.float32))
    plain = adapted(load_plain(tiny_base, torch.bfloat16, KINDS[kind]))
    for found, expected in zip(gradients(quantised), gradients(plain), strict=True):
        assert float((found - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_evaluation_changes_no_gradient(tiny_base: Path, kind: str, dtype: torch.dtype) -> None:
    model = adapted(load(tiny_base, kind, dtype))
    before = gradients(model)
    said = logits(model.eval())
    assert all(torch.equal(one, other) for one, other in zip(gradients(model), before, strict=True))
    assert torch.equal(logits(model.eval()), said)


@needs_avx512_bf16
def test_left_alone_bitsandbytes_would_change_them(tiny_base: Path) -> None:
    model = adapted(load(tiny_base, "nf4", torch.bfloat16))
    for _, layer in quantized_layers(model):
        layer.support_avx512bf16_for_cpu = True  # as bitsandbytes makes its layers here
    before = gradients(model)
    logits(model.eval())
    apart = [(one - other).norm() / other.norm() for one, other in zip(gradients(model), before, strict=True)]
    assert max(apart) > 0.5


def test_int8_answers_as_it_trains_and_large_values_touch_their_own_row_alone(tiny_base: Path) -> None:
    (_, layer), *_ = quantized_layers(load(tiny_base, "int8"))
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer.train()(x), layer.eval()(x))
    loud = x.clone()
    loud[0, ::3] = 50.0
    assert torch.equal(layer(loud)[1:], layer(x)[1:])


def test_int8_keeps_no_weights_for_its_gradient(tiny_base: Path) -> None:
    (_, layer), *_ = quantized_layers(load(tiny_base, "int8"))
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(x).sum().backward()
    assert not kept
    assert x.grad is not None
    assert torch.allclose(x.grad, dequantized(layer, torch.float32).sum(0).expand(4, -1), atol=1e-5)


def test_left_alone_bitsandbytes_would_round_what_int8_multiplies(tiny_base: Path) -> None:
    import bitsandbytes

    (_, layer), *_ = quantized_layers(load(tiny_base, "int8"))
    theirs = copy.deepcopy(layer)
    theirs.__class__ = bitsandbytes.nn.Linear8bitLt
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(theirs.train()(x), layer(x), atol=1e-5), "in training, on a processor, theirs is the same"
    apart = (theirs.eval()(x) - layer(x)).norm() / layer(x).norm()
    assert float(apart) > 2e-3


def test_loading_says_nothing_of_its_own(tiny_base: Path) -> None:
    script = f"""
import torch
from pathlib import Path
from danlu.models.loading import load_base
from danlu.recipe.model_schema import EightBitQuantization, FourBitQuantization
for kind in (FourBitQuantization(type="nf4"), EightBitQuantization(type="int8")):
    model = load_base(Path({str(tiny_base)!r}), torch.bfloat16, quantization=kind)
    model(input_ids=torch.arange(9)[None])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr
    assert not [word for word in ("gemm_4bit", "MatMul8bitLt", "Loading weights", "Warning") if word in said], said


def test_a_model_without_plain_linear_layers_is_refused(tmp_path: Path) -> None:
    from transformers import FalconConfig, FalconForCausalLM

    sizes = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    FalconForCausalLM(FalconConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="none of this model's linear layers"):
        load(tmp_path, "nf4")


def test_a_base_that_is_quantised_already_is_named(tiny_base: Path, tmp_path: Path) -> None:
    require_quantizable(tiny_base, NF4)
    folder = shutil.copytree(tiny_base, tmp_path / "gptq")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    for wanted in (None, NF4):
        with pytest.raises(ModelError, match=r"quantised already \(gptq\)(.|\n)*hint:"):
            require_quantizable(folder, wanted)


def test_without_bitsandbytes_the_command_to_install_it_is_said(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization_module, "find_spec", lambda _: None)
    require_quantizable(tiny_base, None)
    with pytest.raises(RecipeError, match=r"pip install 'danlu\[quantization\]'"):
        require_quantizable(tiny_base, NF4)


@pytest.mark.parametrize("flag", ["avx512_fp16", "amx_fp16", "fp16_arith", "avx512_bf16"])
def test_float16_is_refused_where_the_processor_only_emulates_it(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True})
    processor = torch.device("cpu")
    for name in ("auto", "bfloat16", "float32"):
        require_dtype(name, processor)
    require_dtype("float16", torch.device("cuda"))
    if flag == "avx512_bf16":
        with pytest.raises(RecipeError, match=r"does not multiply in float16(.|\n)*hint:"):
            require_dtype("float16", processor)
    else:
        require_dtype("float16", processor)
