"""Encoder-decoder training computes what Transformers computes on one row at a time with `labels=`.

In float32 only the order of the sums differs: 1e-5 of a gradient's norm, or, where it is less than a hundredth of what
all gradients have together, of that hundredth, because it is made of larger numbers.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from kernels_there import THERE, kernel, needs_kernels
from sequence_models import FAMILIES, random_model

from danlu.adapters.kinds import Lora
from danlu.adapters.linear import FusedLinear
from danlu.adapters.lora import add_adapter
from danlu.adapters.targets import resolve_targets
from danlu.data.store import Store
from danlu.data.template import Document
from danlu.errors import ModelError
from danlu.training.engine import Engine, choose_engine
from danlu.training.feed import Feed, to_batches
from danlu.training.frozen import choose_frozen
from danlu.training.memory import MemoryPlan, checkpoint_activations, plan_memory
from danlu.training.sequences import (
    IGNORED,
    AnyBatch,
    ChosenSequences,
    SequenceBatch,
    Sequences,
    own_loss,
    source_and_target,
    split_by_length,
    to_sequences,
)

chosen_loss, low_rank = kernel("chosen_loss"), kernel("low_rank")

CPU = torch.device("cpu")
ALL = 1 << 20
BUDGETS = (1, 24, 60, 100, ALL)
SOURCES, TARGETS = (4, 17, 9, 4, 30, 12), (3, 8, 2, 9, 5, 1)
Measured = tuple[float, dict[str, torch.Tensor]]


def some_documents(end: int = 1) -> list[Document]:
    """Sources and targets of several lengths, each ending with the end token."""
    numbers = torch.randint(5, 50, (6, 60), generator=torch.Generator().manual_seed(3)).tolist()
    return [
        Document((*row[: source - 1], end, *row[source : source + target - 1], end), ((source, source + target),))
        for row, source, target in zip(numbers, SOURCES, TARGETS, strict=True)
    ]


def with_lora(family: str, targets: str = "all-linear") -> Any:
    """A tiny model with LoRA, B not zero, so that every gradient is."""
    base = random_model(family)
    tuned = add_adapter(base, Lora(4, 8.0, 0.0), resolve_targets(base, targets), 0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return tuned


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return with_lora(request.param)


def documents_of(model: Any) -> list[Document]:
    return some_documents(model.config.eos_token_id)


def gradients_of(model: Any, weight: float) -> dict[str, torch.Tensor]:
    found = {name: p.grad / weight for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad(set_to_none=True)
    return found


def reference(model: Any, documents: Sequence[Document]) -> Measured:
    """Transformers' own loss of each row alone, times its labels, summed and divided by all labels."""
    total = weight = 0.0
    for document in documents:
        source, target = source_and_target(document)
        loss = model(input_ids=torch.tensor([source]), labels=torch.tensor([target])).loss * len(target)
        loss.backward()
        total, weight = total + loss.item(), weight + len(target)
    return total / weight, gradients_of(model, weight)


def measure(model: Any, objective: Any, batches: Sequence[AnyBatch]) -> Measured:
    total = weight = 0.0
    for batch in batches:
        loss, batch_weight = objective(model, batch)
        loss.backward()
        total, weight = total + loss.item(), weight + batch_weight
    return total / weight, gradients_of(model, weight)


def require_close(found: Measured, expected: Measured) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found[1].keys() == expected[1].keys()
    least = torch.stack([gradient.norm() for gradient in expected[1].values()]).norm() / 100
    for name, gradient in expected[1].items():
        assert float(gradient.norm()) > 1e-4, name
        assert float((found[1][name] - gradient).norm()) < 1e-5 * float(max(gradient.norm(), least)), name


def batches_of(documents: list[Document], budget: int) -> list[SequenceBatch]:
    found = to_batches(documents, budget, False, CPU, padded=True)
    assert all(isinstance(batch, SequenceBatch) for batch in found)
    return found  # type: ignore[return-value]


# Batches


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_document_is_in_one_group_and_no_group_is_over_the_budget_when_filled_up(budget: int) -> None:
    documents = some_documents()
    groups = split_by_length(documents, budget)
    assert Counter(document for group in groups for document in group) == Counter(documents)
    for group in groups:
        assert len(group) == 1 or to_sequences(group, CPU).num_computed <= budget


def test_the_budgets_cut_the_rows_in_different_ways() -> None:
    sizes = {budget: [tuple(b.source_ids.shape) for b in batches_of(some_documents(), budget)] for budget in BUDGETS}
    assert sizes[1] == [(1, 30), (1, 17), (1, 4), (1, 12), (1, 9), (1, 4)]
    assert sizes[ALL] == [(6, 30)]
    assert [len(shapes) for shapes in sizes.values()] == [6, 5, 3, 2, 1]


def test_documents_of_like_length_lie_together_so_that_little_is_filled_up() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 60, (64,), generator=generator).tolist()
    documents = [Document(tuple(range(5, 5 + n)), ((n - 2, n),)) for n in lengths]
    batches = batches_of(documents, 256)
    filled = sum(batch.num_computed for batch in batches) / sum(batch.num_tokens for batch in batches)
    in_order = [documents[start : start + 4] for start in range(0, 64, 4)]
    unsorted = sum(to_sequences(group, CPU).num_computed for group in in_order) / sum(lengths)
    assert filled < 1.15 < 1.4 < unsorted


def test_a_batch_says_what_it_holds() -> None:
    first, second = some_documents()[:2]
    batch = to_sequences([first, second], CPU)
    assert batch.source_ids[0].tolist() == [*first.ids[:4], *[0] * 13]
    assert batch.source_mask.tolist() == [[1] * 4 + [0] * 13, [1] * 17]
    assert batch.target_ids[0].tolist() == [*first.ids[4:], *[IGNORED] * 5]
    assert batch.target_ids[1].tolist() == list(second.ids[17:])
    assert (batch.num_tokens, batch.num_targets, batch.weight, batch.num_computed) == (7 + 25, 3 + 8, 11.0, 2 * 25)
    assert replace(batch, counted=False).weight == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_s_input_is_shifted_as_by_the_model_itself(family: str) -> None:
    model = random_model(family)
    batch = to_sequences(some_documents(model.config.eos_token_id), CPU)
    own = model.prepare_decoder_input_ids_from_labels(labels=batch.target_ids)
    assert torch.equal(Sequences.of(model).inputs(batch)["decoder_input_ids"], own)


# Loss and gradients


def test_any_budget_gives_the_loss_and_gradients_of_one_row_at_a_time(model: Any) -> None:
    documents = documents_of(model)
    expected = reference(model, documents)
    plain = Sequences.of(model)
    chunked = ChosenSequences.of(model, plain)
    for budget in BUDGETS:
        for objective in (plain, chunked) if THERE else (plain,):
            require_close(measure(model, objective, batches_of(documents, budget)), expected)
    require_close(measure(model, own_loss, batches_of(documents, ALL)), expected)


@needs_kernels
def test_with_all_kernels_in_it_is_the_same_and_off_takes_them_out(model: Any) -> None:
    documents = documents_of(model)
    expected = reference(model, documents)
    engine = choose_engine(model, documents)
    assert engine.name == "padded rows, plain attention, fused layers, chunked loss"
    assert (engine.packs, engine.padded, engine.shares_prefix) == (True, True, False)
    for budget in BUDGETS:
        require_close(measure(model, engine.objective, batches_of(documents, budget)), expected)
        require_close(measure(model, engine.plain, batches_of(documents, budget)), expected)
    engine.off()
    assert not any(module.shared for module in model.modules() if isinstance(module, FusedLinear))
    require_close(reference(model, documents), expected)


def test_the_order_of_a_step_s_rows_makes_no_difference(model: Any) -> None:
    documents = documents_of(model)
    objective = choose_engine(model, documents).objective
    expected = measure(model, objective, [to_sequences(documents, CPU)])
    moved = [documents[index] for index in (5, 0, 3, 1, 4, 2)]
    require_close(measure(model, objective, [to_sequences(moved, CPU)]), expected)


def test_what_fills_a_batch_up_is_seen_by_nobody(model: Any) -> None:
    documents = documents_of(model)
    batch = to_sequences(documents, CPU)
    other = replace(batch, source_ids=batch.source_ids.masked_fill(batch.source_mask == 0, 9))
    plain = Sequences.of(model)
    losses = []
    for one, objective in ((batch, plain), (other, replace(plain, filler=9))):
        with torch.inference_mode():
            losses.append(float(objective(model, one)[0]))
    assert losses[0] == losses[1]
    with torch.inference_mode():
        seen = replace(batch, source_mask=torch.ones_like(batch.source_mask))
        assert float(plain(model, seen)[0]) != pytest.approx(losses[0], rel=1e-4), "the test would see it"


def test_checkpointed_activations_change_nothing_but_the_order_of_sums(model: Any) -> None:
    documents = documents_of(model)
    plain = Sequences.of(model)
    batches = batches_of(documents, 60)
    model.train()
    expected = measure(model, plain, batches)
    for share in (0.5, 1.0):
        checkpoint_activations(model, share)
        # T5's own code then wants gradients of its position biases, for which torch takes another attention; and what
        # the decoder's layers say of the encoder's states is summed layer by layer.
        require_close(measure(model, plain, batches), expected)


def test_bfloat16_s_loss_is_taken_in_float32() -> None:
    model = with_lora("t5")
    batch = to_sequences(some_documents(), CPU)
    plain = Sequences.of(model)
    exact = float(plain(model, batch)[0].detach())
    model.get_base_model().to(torch.bfloat16)
    loss, _ = plain(model, batch)
    assert loss.dtype is torch.float32
    assert float(loss.detach()) == pytest.approx(exact, rel=2e-2)


# What is chosen


def test_without_the_kernels_all_is_plain_and_the_loss_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, documents = with_lora("t5"), some_documents()
    expected = reference(model, documents)
    for name in [name for name in sys.modules if name.startswith("danlu.kernels")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "danlu.kernels", None)
    engine = choose_engine(model, documents)
    assert engine.name == "padded rows, plain attention, plain (no kernels) layers, plain loss"
    require_close(measure(model, engine.objective, batches_of(documents, 60)), expected)


@needs_kernels
def test_a_fused_layer_with_wrong_gradients_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = low_rank._LowRank.backward

    def wrong(ctx: Any, *given: Any) -> Any:
        of_x, *others = right(ctx, *given)
        return (of_x, *(None if one is None else one * 1.01 for one in others))

    monkeypatch.setattr(low_rank._LowRank, "backward", staticmethod(wrong))
    engine = choose_engine(with_lora("t5"), some_documents())
    assert engine.layers.startswith("plain (with fused ones, the gradients differ by ")


@needs_kernels
def test_a_chunked_loss_that_is_wrong_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen_loss, "chosen_loss", lambda *given: 1.001 * given[0].square().sum())
    assert choose_engine(with_lora("bart"), some_documents(2)).name.endswith("fused layers, plain loss")


def test_a_head_that_adds_something_to_its_product_is_computed_by_the_model_itself() -> None:
    model, documents = with_lora("bart"), some_documents(2)
    model.get_base_model().final_logits_bias.normal_(generator=torch.Generator().manual_seed(0))
    expected = reference(model, documents)
    engine = choose_engine(model, documents)
    assert engine.name.endswith("plain loss")
    require_close(measure(model, engine.objective, batches_of(documents, ALL)), expected)


def test_rows_that_change_when_they_are_filled_up_are_computed_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, documents = with_lora("t5"), some_documents()
    expected = reference(model, documents)
    inputs = Sequences.inputs

    def unmasked(self: Sequences, batch: SequenceBatch) -> dict[str, Any]:
        return inputs(self, batch) | {"attention_mask": torch.ones_like(batch.source_mask)}

    monkeypatch.setattr(Sequences, "inputs", unmasked)
    engine = choose_engine(model, documents)
    assert engine.attention.startswith("one row at a time (padded, the ")
    assert not engine.packs
    require_close(measure(model, engine.objective, batches_of(documents, 1)), expected)


def test_padding_is_proven_although_the_shortest_rows_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Sequences.inputs

    def unmasked(self: Sequences, batch: SequenceBatch) -> dict[str, Any]:
        return inputs(self, batch) | {"attention_mask": torch.ones_like(batch.source_mask)}

    monkeypatch.setattr(Sequences, "inputs", unmasked)
    first, second = some_documents()[:2]
    model = with_lora("t5")
    assert not choose_engine(model, [first, first, first, second]).packs
    assert choose_engine(model, [first, first, first]).packs, "no row is filled up here"


def test_a_model_that_trains_by_other_targets_than_it_generates_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_lora("t5")
    monkeypatch.setattr(Sequences, "of", classmethod(lambda cls, model: cls(7, 0)))
    with pytest.raises(ModelError, match="own loss is another than that of what it generates by"):
        choose_engine(model, some_documents())


def test_no_layers_are_computed_once_because_they_are_counted_twice(
    make_store: Callable[[Sequence[Document]], Store],
) -> None:
    store = make_store(some_documents(2))
    model = with_lora("bart")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora" in name and ".layers.0." not in name)
    assert choose_frozen(model, [store], Sequences.of(model), False) is None


# Feed and memory


def engine_and_feed(make_store: Callable[[Sequence[Document]], Store], budget: int) -> tuple[Engine, Feed, Any]:
    model = with_lora("t5")
    store = make_store(some_documents())
    engine = choose_engine(model, store)
    return engine, Feed(store, 2, 4, 0, budget, engine.shares_prefix, CPU, padded=engine.padded), model


def test_a_feed_gives_each_step_s_documents_as_sequences(make_store: Callable[[Sequence[Document]], Store]) -> None:
    _, feed, _ = engine_and_feed(make_store, 60)
    for step in range(feed.num_steps):
        documents = feed.documents(step)
        batches = feed.batches(step)
        assert sum(batch.num_tokens for batch in batches) == sum(len(document.ids) for document in documents)
        assert sum(batch.source_ids.shape[0] for batch in batches) == len(documents)  # type: ignore[union-attr]


def test_memory_is_measured_on_a_source_and_its_target(make_store: Callable[[Sequence[Document]], Store]) -> None:
    engine, feed, model = engine_and_feed(make_store, 60)
    plan = plan_memory(model, engine, feed.store, MemoryPlan(60, 0.0), 1 << 40)
    assert (plan.micro_batch_tokens, plan.checkpointed_share) == (60, 0.0)
    assert 100 < plan.bytes_per_token < 1 << 20
