"""Every kind of LoRA: starts as its base, computes what PEFT's own layers compute, and is what was saved and merged.

Sums are taken in another order than PEFT's, so float32 may be off by about 1e-6 of a number; bounds are ten times that
or more, and what a wrong term would change is a hundred times more.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from small_models import SIZES
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

from danlu.adapters.fitting import fit_adapter
from danlu.adapters.fused import fuse
from danlu.adapters.kinds import Lora
from danlu.adapters.linear import FusedLinear
from danlu.adapters.lora import add_adapter, load_adapter, save_adapter

IDS = torch.arange(20, 60).reshape(2, 20)
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZES),
    "gpt2": GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, initializer_range=0.2, bos_token_id=None),
}
VARIANTS = {
    "plain": ("llama", Lora(4, 8.0)),
    "rslora": ("llama", Lora(4, 8.0, use_rslora=True)),
    "dora": ("qwen2", Lora(4, 8.0, use_dora=True)),
    "dora, transposed": ("gpt2", Lora(4, 8.0, use_dora=True)),
    "gaussian": ("llama", Lora(4, 8.0, init_lora_weights="gaussian")),
    "orthogonal": ("llama", Lora(4, 8.0, init_lora_weights="orthogonal")),
    "olora": ("llama", Lora(4, 8.0, init_lora_weights="olora")),
    "pissa": ("qwen2", Lora(4, 8.0, init_lora_weights="pissa")),
    "pissa, transposed": ("gpt2", Lora(4, 8.0, init_lora_weights="pissa")),
    "quick pissa": ("llama", Lora(4, 8.0, init_lora_weights="pissa_niter_4")),
    "patterns": ("llama", Lora(4, 8.0, rank_pattern={"q_proj": 8, "0.mlp.up_proj": 2}, alpha_pattern={"v_proj": 3.0})),
    "all biases": ("gpt2", Lora(4, 8.0, bias="all")),
    "adapted layers' biases": ("qwen2", Lora(4, 8.0, bias="lora_only")),
    "biases under dora": ("qwen2", Lora(4, 8.0, bias="all", use_dora=True)),
    "head and norm": ("llama", Lora(4, 8.0, modules_to_save=["lm_head", "model.norm"])),
    "embeddings": ("llama", Lora(4, 8.0, modules_to_save=["embed_tokens"])),
    "tied head": ("tied", Lora(4, 8.0, modules_to_save=["lm_head"])),
    "much at once": (
        "qwen2",
        Lora(
            4,
            8.0,
            layers_to_transform=[1],
            rank_pattern={"q_proj": 8, "self_attn.q_proj": 6},
            alpha_pattern={"o_proj": 3.0, "layers.1.self_attn.o_proj": 5.0},
            bias="lora_only",
            modules_to_save=["norm"],
            use_rslora=True,
            init_lora_weights="pissa",
        ),
    ),
}


def base_of(variant: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[VARIANTS[variant][0]], dtype=dtype).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def fresh(variant: str) -> Any:
    base = base_of(variant)
    return add_adapter(base, *fit_adapter(base, VARIANTS[variant][1], "all-linear"), 7).eval()


def plain_config(lora: Lora, targets: list[str]) -> Any:
    """PEFT's config without our layers."""
    tied = {"lm_head", "model.embed_tokens"} <= set(lora.modules_to_save)
    config = lora.peft_config(targets, "CAUSAL_LM", tied, seed=0)
    config._custom_modules = None
    return config


def disturb(model: Any) -> Any:
    """Gives all that is trained other values, as a training would."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def require_close(found: torch.Tensor, expected: torch.Tensor, what: str = "") -> None:
    assert float((found - expected).norm()) <= 2e-5 * float(expected.norm()), what


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_starts_as_its_base(variant: str) -> None:
    model = fresh(variant)
    require_close(logits(model), logits(base_of(variant)))
    fuse(model)
    require_close(logits(model), logits(base_of(variant)))


def test_fused_it_computes_what_peft_s_own_layers_compute(variant: str) -> None:
    model = fresh(variant)
    base = base_of(variant)
    config = plain_config(*fit_adapter(base, VARIANTS[variant][1], "all-linear"))
    torch.manual_seed(7)
    plain = get_peft_model(base, config).eval()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    theirs = {name: parameter for name, parameter in plain.named_parameters() if parameter.requires_grad}
    assert trained.keys() == theirs.keys()
    for name, parameter in trained.items():
        require_close(parameter.detach(), theirs[name].detach(), name)
    disturb(model)
    plain.load_state_dict({name: parameter.detach() for name, parameter in trained.items()}, strict=False)
    done = fuse(model)
    assert done.linears == done.adapted > 0
    found, expected = (one(input_ids=IDS, use_cache=False).logits for one in (model, plain))
    require_close(found, expected)
    (found.square().sum() / 1000).backward()
    (expected.square().sum() / 1000).backward()
    for name, parameter in trained.items():
        assert float(parameter.grad.norm()) > 1e-4, name
        require_close(parameter.grad, theirs[name].grad, name)


def test_what_is_saved_is_the_same_in_plain_peft_on_the_base_as_it_was(variant: str, tmp_path: Path) -> None:
    model = disturb(fresh(variant))
    expected = logits(model)
    assert float((expected - logits(base_of(variant))).norm()) > 1e-2 * float(expected.norm())
    fuse(model)
    save_adapter(model, tmp_path / "adapter", "some/base")
    assert model.peft_config["default"].r == 4
    require_close(logits(PeftModel.from_pretrained(base_of(variant), tmp_path / "adapter").eval()), expected)
    require_close(logits(load_adapter(base_of(variant), tmp_path / "adapter")), expected)


def test_without_its_adapter_the_base_answers_to_the_bit(variant: str, tmp_path: Path) -> None:
    model = disturb(fresh(variant))
    tuned, expected = logits(model), logits(base_of(variant))
    save_adapter(model, tmp_path / "adapter", "some/base")
    for one in (model, copy.deepcopy(model), load_adapter(base_of(variant), tmp_path / "adapter")):
        with one.disable_adapter():
            assert torch.equal(logits(one), expected)
        require_close(logits(one), tuned)
    fuse(model)
    with model.disable_adapter():
        require_close(logits(model), expected)
    require_close(logits(model), tuned)


def test_merged_it_answers_as_apart_and_so_does_what_is_written(variant: str, tmp_path: Path) -> None:
    model = disturb(fresh(variant))
    expected = logits(model)
    save_adapter(model, tmp_path / "adapter", "some/base")
    merged = load_adapter(base_of(variant), tmp_path / "adapter").merge_and_unload(safe_merge=True)
    require_close(logits(merged), expected)
    merged.save_pretrained(tmp_path / "merged")
    written, about = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not about["missing_keys"]
    assert not about["unexpected_keys"]
    require_close(logits(written.eval()), expected)
    model.merge_adapter()
    require_close(logits(model), expected)
    model.unmerge_adapter()
    require_close(logits(model), expected)


def test_a_dropped_input_is_dropped_as_peft_drops_it() -> None:
    for variant in ("dora", "pissa"):
        family, lora = VARIANTS[variant]
        base = base_of(variant)
        lora = Lora(4, 8.0, 0.5, use_dora=lora.use_dora, init_lora_weights=lora.init_lora_weights)
        model = disturb(add_adapter(base, *fit_adapter(base, lora, ["q_proj", "k_proj"]), 7))
        plain_base = base_of(variant)
        torch.manual_seed(7)
        plain = get_peft_model(plain_base, plain_config(lora, ["q_proj", "k_proj"]))
        trained = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
        plain.load_state_dict(trained, strict=False)
        assert fuse(model).linears == 4, family
        found = []
        for one in (model.train(), plain.train()):
            torch.manual_seed(3)
            found.append(logits(one))
        require_close(found[0], found[1])
        require_close(logits(model.eval()), logits(plain.eval()))


def test_patterns_put_the_right_rank_and_scale_on_the_right_layers() -> None:
    base = base_of("much at once")
    pattern = {"q_proj": 8, "self_attn.q_proj": 6, "layers.0.self_attn.q_proj": 2}
    lora = Lora(4, 8.0, rank_pattern=pattern, alpha_pattern={"o_proj": 3.0, "layers.1.self_attn.o_proj": 5.0})
    model = add_adapter(base, *fit_adapter(base, lora, ["q_proj", "o_proj", "up_proj"]), 0)
    found = {
        name.removeprefix("base_model.model.model.layers."): (layer.r["default"], layer.scaling["default"])
        for name, layer in model.named_modules()
        if isinstance(layer, FusedLinear)
    }
    assert found == {
        "0.self_attn.q_proj": (2, 4.0),
        "1.self_attn.q_proj": (6, 8 / 6),
        "0.self_attn.o_proj": (4, 0.75),
        "1.self_attn.o_proj": (4, 1.25),
        "0.mlp.up_proj": (4, 2.0),
        "1.mlp.up_proj": (4, 2.0),
    }


def test_a_tied_head_stays_one_matrix_with_the_embeddings() -> None:
    model = fresh("tied head")
    base = model.get_base_model()
    assert base.get_input_embeddings().weight is base.get_output_embeddings().weight
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad and "lora" not in name]
    assert names == ["base_model.model.model.embed_tokens.modules_to_save.default.weight"]


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_from_bfloat16_weights_leaves_them_and_is_exact(start: str, tmp_path: Path) -> None:
    base = base_of("plain", torch.bfloat16)
    before = copy.deepcopy(base.state_dict())
    model = disturb(add_adapter(base, Lora(4, 8.0, init_lora_weights=start), ["q_proj", "up_proj"], 0).eval())
    after = {name.replace(".base_layer", ""): value for name, value in model.get_base_model().state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    save_adapter(model, tmp_path / "adapter", "some/base")
    exact = base_of("plain")
    exact.load_state_dict({name: value.float() for name, value in before.items()})
    loaded = PeftModel.from_pretrained(exact, tmp_path / "adapter").eval()
    require_close(logits(model.to(torch.float32)), logits(loaded))


def test_dora_starts_as_a_bfloat16_base_too() -> None:
    base = base_of("plain", torch.bfloat16)
    expected = logits(base)
    model = add_adapter(base, Lora(4, 8.0, use_dora=True), ["q_proj", "up_proj", "down_proj"], 0).eval()
    assert torch.equal(logits(model), expected)
    fuse(model)
    assert torch.equal(logits(model), expected)
