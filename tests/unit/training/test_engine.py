"""Each kernel trains where it is proven on the very model, and nowhere else."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from small_models import SIZES
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from danlu.adapters.kinds import Lora
from danlu.adapters.lora import add_adapter
from danlu.data.store import Store
from danlu.data.template import Document
from danlu.kernels import chosen_loss, low_rank, packed_attention
from danlu.training.engine import choose_engine, shortened
from danlu.training.feed import to_batches
from danlu.training.objectives import ChosenSft, Objective, sft

MakeStore = Callable[[Sequence[Document]], Store]
GPT2 = GPT2Config(
    vocab_size=300,
    n_embd=64,
    n_layer=2,
    n_head=4,
    n_positions=64,
    initializer_range=0.2,
    bos_token_id=None,
    eos_token_id=None,
)
OPT = OPTConfig(
    vocab_size=300,
    hidden_size=64,
    word_embed_proj_dim=64,
    ffn_dim=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
    init_std=0.2,
)

CANNOT = "the model can't take the packed kernel"


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    numbers = torch.randint(10, 300, (4, 30), generator=torch.Generator().manual_seed(1)).tolist()
    return make_store([Document((5, 6, 7, *row[: 9 + 4 * n]), ((6, 11),)) for n, row in enumerate(numbers)])


def with_lora(config: PreTrainedConfig, targets: tuple[str, ...] = ("q_proj", "v_proj")) -> Any:
    torch.manual_seed(0)
    return add_adapter(AutoModelForCausalLM.from_config(config).eval(), Lora(4, 8.0), targets, 0)


def loss_of(model: Any, store: Store, share: bool) -> float:
    documents = [store[index] for index in range(len(store))]
    with torch.inference_mode():
        loss, weight = sft(model, to_batches(documents, 1 << 20, share, torch.device("cpu"))[0])
    return loss.item() / weight


def loss_one_at_a_time(model: Any, store: Store) -> float:
    documents = [store[index] for index in range(len(store))]
    with torch.inference_mode():
        single = [sft(model, batch) for batch in to_batches(documents, 1, False, torch.device("cpu"))]
    assert len(single) == len(documents)
    return sum(loss.item() for loss, _ in single) / sum(weight for _, weight in single)


def attention_of(model: Any) -> str:
    name: str = model.get_base_model().config._attn_implementation
    return name


@pytest.mark.parametrize("config", [LlamaConfig, Qwen2Config, Qwen3Config], ids=lambda config: config.model_type)
def test_the_kernel_is_taken_where_it_gives_the_plain_loss(config: Any, store: Store) -> None:
    model = with_lora(config(**SIZES, head_dim=16) if config is Qwen3Config else config(**SIZES))
    plain = loss_of(model, store, share=False)
    chosen = choose_engine(model, store)
    assert chosen.attention == "packed"
    assert (chosen.attention, chosen.shares_prefix) == ("packed", True)
    assert attention_of(model) == packed_attention.NAME
    assert loss_of(model, store, share=True) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("spans", [[(60, 70), (90, 100)], [(2, 4), (5, 95)], [(1, 12), (65, 79)], [(3, 7), (80, 81)]])
def test_a_long_document_is_proven_without_its_middle(spans: list[tuple[int, int]]) -> None:
    document = Document(tuple(range(100)), tuple(spans))
    short = shortened(document, 30)
    assert short.ids == (*range(7), *range(77, 100))
    trained = {token for start, end in spans for token in range(start, end)} & set(short.ids)
    assert [short.ids[place] for start, end in short.spans for place in range(start, end)] == sorted(trained)
    assert shortened(short, 30) is short


def test_a_document_that_is_trained_in_its_middle_alone_is_proven_whole() -> None:
    document = Document(tuple(range(100)), ((20, 60),))
    assert shortened(document, 30) is document


def test_off_gives_back_the_attention_that_the_model_had(store: Store) -> None:
    config = LlamaConfig(**SIZES)
    config._attn_implementation = "eager"
    model = with_lora(config)
    assert attention_of(model) == "eager"
    chosen = choose_engine(model, store)
    assert attention_of(model) == packed_attention.NAME
    chosen.off()
    assert attention_of(model) == "eager"


def test_gpt2_trains_with_the_loss_of_one_row_at_a_time_whatever_is_chosen(store: Store) -> None:
    model = with_lora(GPT2, ("c_attn",))
    expected = loss_one_at_a_time(model, store)
    chosen = choose_engine(model, store)
    assert chosen.attention == "packed" or chosen.attention.startswith("plain (")
    assert loss_of(model, store, chosen.shares_prefix) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("config", "targets"),
    [
        (Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]), ("q_proj",)),
        (MambaConfig(vocab_size=300, hidden_size=64, num_hidden_layers=2, state_size=8), ("in_proj",)),
        (BloomConfig(vocab_size=300, hidden_size=64, n_layer=2, n_head=4), ("query_key_value",)),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_whose_packed_rows_see_each_other_gets_one_row_at_a_time(
    store: Store, config: Any, targets: tuple[str, ...], dtype: torch.dtype
) -> None:
    config = copy.deepcopy(config)
    config.initializer_range = 0.2
    model = with_lora(config, targets).to(dtype)
    assert loss_of(model, store, share=False) != pytest.approx(loss_one_at_a_time(model, store), rel=1e-3)
    chosen = choose_engine(model, store)
    assert not chosen.packs
    assert not chosen.shares_prefix
    reason = "the packed kernel's (loss|gradients) .*" if config.model_type == "lfm2" else CANNOT
    assert re.fullmatch(rf"plain, one row at a time \({reason}; packed, the .*\)", chosen.attention)


def test_the_kernel_keeps_rows_apart_where_transformers_itself_would_not(store: Store) -> None:
    model = with_lora(OPT)
    expected = loss_one_at_a_time(model, store)
    assert loss_of(model, store, share=False) != pytest.approx(expected, rel=1e-3)
    assert choose_engine(model, store).attention == "packed"
    assert loss_of(model, store, share=True) == pytest.approx(expected, rel=1e-4)


def test_one_document_is_enough_to_choose_by(make_store: MakeStore) -> None:
    store = make_store([Document(tuple(range(5, 20)), ((6, 11),))])
    assert choose_engine(with_lora(LlamaConfig(**SIZES)), store).attention == "packed"
    hybrid = with_lora(Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]), ("q_proj",))
    assert not choose_engine(hybrid, store).packs


def loss_and_gradients(
    model: Any, objective: Objective, store: Store, max_tokens: int, share: bool
) -> tuple[float, dict[str, torch.Tensor]]:
    documents = [store[index] for index in range(len(store))]
    total = weight = 0.0
    for batch in to_batches(documents, max_tokens, share, torch.device("cpu")):
        loss, batch_weight = objective(model, batch)
        loss.backward()
        total, weight = total + loss.item(), weight + batch_weight
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad(set_to_none=True)
    return total / weight, gradients


def require_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Requires that each gradient is off by 1e-5 of its norm at most."""
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert wanted.any(), name
        assert float((found[name] - wanted).norm()) < 1e-5 * float(wanted.norm()), name


def with_b(model: Any) -> Any:
    """B is not zero, so that A has gradients."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SIZES, sliding_window=8),
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1),
        Gemma2Config(**SIZES, head_dim=16, sliding_window=8, attn_logit_softcapping=2.0, query_pre_attn_scalar=16),
    ],
    ids=lambda config: config.model_type,
)
def test_windows_and_soft_caps_are_packed_with_the_loss_and_gradients_of_one_row_at_a_time(
    config: Any, store: Store
) -> None:
    assert min(len(store[index].ids) for index in range(len(store))) > config.sliding_window
    config = copy.deepcopy(config)
    model = with_b(with_lora(config))
    before = attention_of(model)
    expected, gradients = loss_and_gradients(model, sft, store, 1, False)
    chosen = choose_engine(model, store)
    assert (chosen.attention, chosen.shares_prefix) == ("packed", True)
    loss, found = loss_and_gradients(model, chosen.objective, store, 1 << 20, True)
    assert loss == pytest.approx(expected, rel=1e-6)
    require_close(found, gradients)
    for field in ("sliding_window", "attn_logit_softcapping"):  # both are felt: the test would see them ignored
        if getattr(config, field, None):
            other = copy.deepcopy(config)
            other._attn_implementation = before
            setattr(other, field, 1000 if field == "sliding_window" else None)
            assert loss_one_at_a_time(with_b(with_lora(other)), store) != pytest.approx(expected, rel=1e-3)
    chosen.off()
    assert attention_of(model) == before
    assert loss_and_gradients(model, sft, store, 1, False)[0] == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sliding_window", 4096),
        ("attention_chunk_size", 4096),
        ("attn_logit_softcapping", 50.0),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("layer_types", ["full_attention", "chunked_attention"]),
        ("layer_types", ["full_attention", "nobody_knows"]),
    ],
)
def test_what_a_config_says_of_attention_and_a_layer_does_not_keeps_the_kernel_away(
    field: str, value: Any, store: Store
) -> None:
    model = with_lora(LlamaConfig(**SIZES))
    config = model.get_base_model().config
    config.sliding_window = 4096 if field == "layer_types" else None
    setattr(config, field, value)
    chosen = choose_engine(model, store)
    assert (
        chosen.attention == "plain (the packed kernel's computation fails: this kind of attention can't be packed)"
        or chosen.attention.startswith(
            "plain, one row at a time (the packed kernel's computation fails: this kind of attention can't be packed;"
        )
    )
    assert not chosen.shares_prefix
    assert attention_of(model) == "sdpa"
    config.layer_types, config.sliding_window = ["full_attention"] * 2, None
    config.attention_chunk_size = config.attn_logit_softcapping = None
    assert choose_engine(model, store).attention == "packed"


def test_a_document_s_loss_needs_its_window_however_long_it_is(make_store: MakeStore) -> None:
    numbers = torch.randint(10, 300, (3, 300), generator=torch.Generator().manual_seed(1)).tolist()
    lengths = (200, 290, 140)
    store = make_store([Document((5, 6, 7, *row[:k]), ((6, 3 + k),)) for row, k in zip(numbers, lengths, strict=True)])
    model = with_b(with_lora(MistralConfig(**SIZES, sliding_window=130)))
    expected, gradients = loss_and_gradients(model, sft, store, 1, False)
    chosen = choose_engine(model, store)
    assert chosen.attention == "packed"
    loss, found = loss_and_gradients(model, chosen.objective, store, 1 << 20, True)
    assert loss == pytest.approx(expected, rel=1e-6)
    require_close(found, gradients)


def test_a_kernel_with_a_wrong_loss_is_switched_off_with_both_losses(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaking(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
        repeats = query.shape[1] // key.shape[1]
        attended = torch.nn.functional.scaled_dot_product_attention(
            query, key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1), is_causal=True
        )
        return attended.transpose(1, 2), None

    model = with_lora(LlamaConfig(**SIZES))
    plain = loss_of(model, store, share=False)
    monkeypatch.setattr(packed_attention, "packed_attention", leaking)
    chosen = choose_engine(model, store)
    assert chosen.attention.startswith("plain")
    assert chosen.attention.startswith("plain (the packed kernel's loss is ")
    assert chosen.packs
    assert attention_of(model) == "sdpa"
    assert loss_of(model, store, share=False) == plain


def test_a_kernel_that_fails_is_switched_off(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such kernel")

    model = with_lora(LlamaConfig(**SIZES))
    monkeypatch.setattr(packed_attention, "packed_attention", failing)
    assert choose_engine(model, store).attention == "plain (the packed kernel's computation fails: no such kernel)"
    assert attention_of(model) == "sdpa"


def test_without_a_grid_the_kernel_is_the_model_s_own_attention() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)).eval()
    ids = torch.randint(0, 300, (2, 12))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=mask).logits
        packed_attention.switch_on(model)
        found = model(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(found, expected)


def test_a_fused_layer_with_wrong_gradients_is_taken_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    right = low_rank._LowRank.backward

    def wrong(ctx: Any, *given: Any) -> Any:
        of_x, *others = right(ctx, *given)
        return (of_x, *(None if one is None else one * 1.01 for one in others))

    model = with_lora(LlamaConfig(**SIZES))
    monkeypatch.setattr(low_rank._LowRank, "backward", staticmethod(wrong))
    chosen = choose_engine(model, store)
    assert re.fullmatch(r"plain \(with fused ones, the gradients differ by .*\)", chosen.layers)
    assert chosen.attention == "packed"
    assert not any(getattr(module, "shared", None) for module in model.modules())


def test_a_chunked_loss_that_is_wrong_is_not_taken(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_lora(LlamaConfig(**SIZES))
    monkeypatch.setattr(chosen_loss, "chosen_loss", lambda *given: 1.001 * given[0].square().sum())
    chosen = choose_engine(model, store)
    assert chosen.objective is sft
    assert chosen.name == "packed attention, fused layers, plain loss"


def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the folder were deleted."""
    for name in [name for name in sys.modules if name.startswith("danlu.kernels")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "danlu.kernels", None)


@pytest.mark.parametrize("config", [LlamaConfig, Gemma2Config], ids=lambda config: config.model_type)
def test_without_the_kernels_everything_is_plain_and_the_loss_the_same(
    config: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_b(with_lora(config(**SIZES, head_dim=16)))
    engine = choose_engine(model, store)
    assert engine.name == "packed attention, fused layers, chunked loss"
    expected, gradients = loss_and_gradients(model, engine.objective, store, 1 << 20, True)
    engine.off()
    without_kernels(monkeypatch)
    engine = choose_engine(model, store)
    assert engine.name == "plain (no kernels) attention, plain (no kernels) layers, plain loss"
    assert engine.objective is sft
    assert (engine.packs, engine.shares_prefix, engine.undo) == (True, False, ())
    for budget in (1, 1 << 20):
        loss, found = loss_and_gradients(model, engine.objective, store, budget, engine.shares_prefix)
        assert loss == pytest.approx(expected, rel=1e-6)
        require_close(found, gradients)


def test_without_the_kernels_a_step_ends_at_the_same_weights(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for _ in range(2):
        model = with_b(with_lora(LlamaConfig(**SIZES)))
        engine = choose_engine(model, store)
        assert isinstance(engine.objective, ChosenSft) == (not ends)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        losses = []
        for _ in range(3):
            loss, gradients = loss_and_gradients(model, engine.objective, store, 1 << 20, engine.shares_prefix)
            for name, parameter in model.named_parameters():
                parameter.grad = gradients.get(name)
            optimizer.step()
            losses.append(loss)
        ends.append(losses)
        without_kernels(monkeypatch)
    assert ends[0][0] - ends[0][2] > 0.01
    assert ends[1] == pytest.approx(ends[0], rel=1e-5)


def test_dropout_keeps_no_kernel_away_and_modes_stay(store: Store) -> None:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)).eval()
    model = with_b(add_adapter(base, Lora(4, 8.0, 0.5), ("q_proj", "v_proj", "gate_proj"), 0))
    before = {name: module.training for name, module in model.named_modules()}
    assert set(before.values()) == {False, True}  # the base evaluates, the adapters are in training mode
    engine = choose_engine(model, store)
    assert engine.name == "packed attention, fused layers, chunked loss"
    engine.off()
    assert {name: module.training for name, module in model.named_modules()} == before
