"""The packed kernel trains where it is proven on the very model, and nowhere else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
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

from danlu.adapters.lora import add_lora
from danlu.data.store import Store
from danlu.data.template import Document
from danlu.kernels import packed_attention
from danlu.training.engine import choose_engine
from danlu.training.feed import to_batches
from danlu.training.objectives import sft

MakeStore = Callable[[Sequence[Document]], Store]
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
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


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    numbers = torch.randint(10, 300, (4, 30), generator=torch.Generator().manual_seed(1)).tolist()
    return make_store([Document((5, 6, 7, *row[: 9 + 4 * n]), ((6, 11),)) for n, row in enumerate(numbers)])


def with_lora(config: PreTrainedConfig, targets: tuple[str, ...] = ("q_proj", "v_proj")) -> Any:
    torch.manual_seed(0)
    return add_lora(AutoModelForCausalLM.from_config(config).eval(), 4, 8.0, 0.0, targets, 0)


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


def test_off_gives_back_the_attention_that_the_model_had(store: Store) -> None:
    config = LlamaConfig(**SIZES)
    config._attn_implementation = "eager"
    model = with_lora(config)
    assert attention_of(model) == "eager"
    chosen = choose_engine(model, store)
    assert attention_of(model) == packed_attention.NAME
    chosen.off(model)
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
    assert chosen.attention.startswith("plain, one row at a time (the model can't take the packed kernel; packed, the ")


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


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SIZES, sliding_window=8),
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1),
        Gemma2Config(**SIZES, head_dim=16, sliding_window=8),
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_with_a_sliding_window_stays_plain_with_a_reason(config: Any, store: Store) -> None:
    model = with_lora(config)
    before = attention_of(model)
    chosen = choose_engine(model, store)
    assert chosen.attention.startswith("plain")
    assert chosen.attention == "plain (the model can't take the packed kernel)"
    assert not chosen.shares_prefix
    assert attention_of(model) == before
    chosen.off(model)
    assert attention_of(model) == before


@pytest.mark.parametrize("field", ["sliding_window", "attention_chunk_size", "attn_logit_softcapping"])
def test_any_config_field_that_bends_attention_keeps_the_kernel_away(field: str) -> None:
    config = LlamaConfig(**SIZES)
    assert packed_attention.switch_on(AutoModelForCausalLM.from_config(config)) == "sdpa"
    setattr(config, field, 4096)
    assert packed_attention.switch_on(AutoModelForCausalLM.from_config(config)) is None


def test_one_windowed_layer_among_full_ones_keeps_the_kernel_away() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES))
    model.config.layer_types = ["full_attention", "full_attention"]
    assert packed_attention.switch_on(model) == "sdpa"
    packed_attention.switch_off(model, "sdpa")
    model.config.layer_types = ["full_attention", "sliding_attention"]
    assert packed_attention.switch_on(model) is None


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
    assert choose_engine(model, store).name.startswith("plain (the packed kernel's loss is nan")
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
