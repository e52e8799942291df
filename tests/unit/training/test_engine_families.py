"""On every family of models, what the engine takes gives the loss and every gradient of plain rows.

Each case says what must be taken, so that a silent fall-back to the plain way is a failure too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from small_models import SIZES
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, GPT2Config

from danlu.adapters.fused import FusedMlp, FusedNorm, fuse
from danlu.adapters.kinds import Lora
from danlu.adapters.linear import FusedLinear
from danlu.adapters.lora import add_adapter
from danlu.adapters.targets import resolve_targets
from danlu.data.template import Document
from danlu.training.engine import choose_engine
from danlu.training.feed import to_batches
from danlu.training.objectives import Objective, sft

CPU = torch.device("cpu")
ALL = 1 << 20
WINDOW = 8  # shorter than every document
MIXED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}


@dataclass(frozen=True)
class Case:
    """A family, and what must be taken on it: of two layers, or of the whole model.

    Attributes:
        kind: Transformers' name of the family.
        groups: adapted layers that are computed as one.
        linears: adapted layers.
        norms: fused ones.
        mlps: fused ones.
        changes: of `SIZES`.
        loss: "chunked" or "plain".
    """

    kind: str
    groups: int = 8
    linears: int = 14
    norms: int = 5
    mlps: int = 2
    changes: dict[str, Any] | None = None
    loss: str = "chunked"

    def config(self) -> Any:
        if self.kind == "gpt2":
            sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.2}
            return GPT2Config(vocab_size=300, bos_token_id=None, eos_token_id=None, **sizes)
        return AutoConfig.for_model(self.kind, **{**SIZES, **(self.changes or {})})


HEADS = {"head_dim": 16}
GEMMA = {**HEADS, "query_pre_attn_scalar": 16, **MIXED}
# Where all experts are used, a rounding never sends a token to another one, so that gradients can be compared.
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 4, "moe_intermediate_size": 48}
CASES = {
    "llama": Case("llama"),
    "llama with bias": Case("llama", changes={"attention_bias": True, "mlp_bias": True}),
    "falcon 3": Case("llama", changes={"head_dim": 32}),  # a Llama whose heads are wider than its states
    "qwen2": Case("qwen2"),
    "qwen2 with windows": Case(
        "qwen2", changes={"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
    ),
    "qwen2.5": Case("qwen2", changes={"tie_word_embeddings": True}),
    "qwen3": Case("qwen3", norms=9, changes=HEADS),
    "qwen3 moe": Case("qwen3_moe", groups=4, linears=8, norms=9, mlps=0, changes={**HEADS, **EXPERTS}),
    "mistral": Case("mistral", changes={"sliding_window": WINDOW}),
    "mixtral": Case("mixtral", groups=4, linears=8, mlps=0, changes=EXPERTS),
    "gemma": Case("gemma", changes=HEADS),
    "gemma2": Case("gemma2", norms=9, changes=GEMMA),
    "gemma3": Case("gemma3_text", norms=13, changes=GEMMA),
    "phi": Case("phi", linears=12, norms=0, mlps=0, loss="plain"),  # its head has a bias
    "phi3": Case("phi3", linears=8, mlps=0),
    "phi3 with windows": Case("phi3", linears=8, mlps=0, changes={"sliding_window": WINDOW}),
    "smollm3": Case("smollm3", changes={"no_rope_layers": [1, 0]}),
    "glm": Case("glm", linears=12, mlps=0, changes=HEADS),
    "glm4": Case("glm4", linears=12, norms=9, mlps=0, changes=HEADS),
    "internlm3": Case("internlm3"),
    "olmo": Case("olmo", norms=0),
    "olmo2": Case("olmo2", norms=9),
    "olmo3": Case("olmo3", norms=9, changes=MIXED),
    "gpt2": Case("gpt2", linears=8, norms=0, mlps=0),
    "gpt-neox": Case("gpt_neox", linears=8, norms=0, mlps=0),
    "starcoder2": Case("starcoder2", linears=12, norms=0, mlps=0),
    "cohere": Case("cohere", norms=0),
    "cohere2": Case("cohere2", norms=0, changes=MIXED),
    "granite": Case(
        "granite",
        changes={
            "logits_scaling": 4.0,
            "embedding_multiplier": 2.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.3,
        },
    ),
    "hunyuan": Case("hunyuan_v1_dense", norms=9, changes=HEADS),
    "ernie 4.5": Case("ernie4_5"),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def some_documents() -> list[Document]:
    """Documents that begin alike, all longer than `WINDOW`."""
    numbers = torch.randint(10, 300, (4, 60), generator=torch.Generator().manual_seed(1)).tolist()
    return [
        Document((5, 6, 7, *row[:length]), ((6, 3 + length),))
        for row, length in zip(numbers, (9, 30, 14, 41), strict=True)
    ]


def disturb(model: Any) -> Any:
    """Makes everything count: B is zero at first, weights of norms are alike, biases are zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            if "lora_B" in name:
                parameter.copy_(noise * 0.05)
            elif parameter.dim() == 1:
                parameter.add_(noise * 0.1)
    return model


def adapted(case: Case, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(case.config()).eval().to(dtype)
    return disturb(add_adapter(base, Lora(4, 8.0), resolve_targets(base, "all-linear"), 0))


Measured = tuple[float, dict[str, torch.Tensor]]


def measure(model: Any, objective: Objective, max_tokens: int, share_prefix: bool) -> Measured:
    """Mean loss and every gradient."""
    total = weight = 0.0
    for batch in to_batches(some_documents(), max_tokens, share_prefix, CPU):
        loss, batch_weight = objective(model, batch)
        loss.backward()
        total, weight = total + loss.item(), weight + batch_weight
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = {name: parameter.grad.clone() for name, parameter in trained.items()}
    model.zero_grad(set_to_none=True)
    return total / weight, gradients


def distances(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    assert found.keys() == expected.keys()
    assert all(gradient.any() for gradient in expected.values())
    return {name: float((found[name] - wanted).norm() / wanted.norm()) for name, wanted in expected.items()}


def counts(model: Any) -> tuple[int, int, int, int]:
    """Groups, linears, norms and MLPs that are fused."""
    modules = list(model.modules())
    shared = [module.shared for module in modules if isinstance(module, FusedLinear) and module.shared is not None]
    kinds = [sum(isinstance(module, kind) for module in modules) for kind in (FusedNorm, FusedMlp)]
    return len(set(map(id, shared))), len(shared), kinds[0], kinds[1]


def require_taken(case: Case, model: Any, engine: Any) -> None:
    assert engine.name == f"packed attention, fused layers, {case.loss} loss"
    assert counts(model) == (case.groups, case.linears, case.norms, case.mlps)
    assert case.linears == sum(isinstance(module, FusedLinear) for module in model.modules())  # none is left out
    assert engine.packs
    assert engine.shares_prefix


def modules_of(model: Any) -> dict[str, tuple[int, type, bool]]:
    return {name: (id(module), type(module), module.training) for name, module in model.named_modules()}


def bits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.arange(20, 60).reshape(2, 20), use_cache=False).logits
    return logits


def test_float32_differs_by_the_order_of_sums_alone(case: Case) -> None:
    model = adapted(case, torch.float32)
    expected, gradients = measure(model, sft, 1, False)
    engine = choose_engine(model, some_documents())
    require_taken(case, model, engine)
    for budget in (ALL, 1):
        loss, found = measure(model, engine.objective, budget, True)
        assert loss == pytest.approx(expected, rel=1e-6)
        worst = distances(found, gradients)
        assert max(worst.values()) < 1e-5, max(worst.items(), key=lambda pair: pair[1])


def test_bfloat16_is_no_further_from_float32_than_twice_the_plain_way(case: Case) -> None:
    model = adapted(case, torch.bfloat16)
    wide = adapted(case, torch.float32)
    wide.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    true_loss, truth = measure(wide, sft, 1, False)
    plain_loss, plain = measure(model, sft, 1, False)
    engine = choose_engine(model, some_documents())
    require_taken(case, model, engine)
    loss, found = measure(model, engine.objective, ALL, True)
    # A loss is one number, and the plain way's may be right by chance: 2^-8 is one rounding to bfloat16.
    assert abs(loss - true_loss) < max(2 * abs(plain_loss - true_loss), true_loss * 2**-8)
    plain_distances = distances(plain, truth)
    for name, distance in distances(found, truth).items():
        assert distance < 2 * plain_distances[name], name


def test_off_gives_back_every_module_the_attention_and_the_bits(case: Case) -> None:
    model = adapted(case, torch.float32)
    base = model.get_base_model()
    before = (modules_of(model), bits_of(model), base.config._attn_implementation, list(model.state_dict()))
    engine = choose_engine(model, some_documents())
    assert counts(model)[0] == case.groups
    assert list(model.state_dict()) == before[3]
    engine.off()
    assert counts(model) == (0, 0, 0, 0)
    assert modules_of(model) == before[0]
    assert base.config._attn_implementation == before[2]
    assert torch.equal(bits_of(model), before[1])


def bits_of_both(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, decoder_input_ids=ids[:, :7], use_cache=False).logits
    return logits


@pytest.mark.parametrize("kind", ["t5", "mt5"])
def test_an_encoder_decoder_has_its_linear_layers_fused(kind: str) -> None:
    sizes: dict[str, Any] = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4, "vocab_size": 300}
    if kind == "mt5":
        sizes["feed_forward_proj"] = "gated-gelu"
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **sizes, decoder_start_token_id=0, initializer_factor=0.5)
    base = AutoModelForSeq2SeqLM.from_config(config).eval()
    model = disturb(add_adapter(base, Lora(4, 8.0), resolve_targets(base, "all-linear"), 0))
    ids = torch.arange(20, 60).reshape(2, 20)

    def loss_and_gradients() -> Measured:
        loss = model(input_ids=ids, labels=ids[:, :13].contiguous(), use_cache=False).loss
        loss.backward()
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        model.zero_grad(set_to_none=True)
        return loss.item(), found

    expected, gradients = loss_and_gradients()
    before = bits_of_both(model, ids)
    fused = fuse(model)
    mlp = 3 if kind == "mt5" else 2  # layers of an MLP; of a gated one, two share their input
    # Of an encoder's layer: q, k, v as one, o, and two of the MLP; of a decoder's also q, then k and v as one, and o.
    assert counts(model) == (2 * 4 + 2 * 7, 2 * (4 + mlp) + 2 * (8 + mlp), 0, 0)
    loss, found = loss_and_gradients()
    assert loss == pytest.approx(expected, rel=1e-6)
    assert max(distances(found, gradients).values()) < 1e-5
    fused.off()
    assert torch.equal(bits_of_both(model, ids), before)
