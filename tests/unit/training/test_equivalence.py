"""Packed training computes what Transformers computes on one row at a time."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from kernels_there import PLAIN_AND_PACKED, kernel, needs_kernels
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from danlu.data.packing import pack
from danlu.data.template import Document
from danlu.training.backends.replicated import Replicated
from danlu.training.feed import to_batches
from danlu.training.objectives import Batch, sft, to_batch

packed_attention = kernel("packed_attention")

CPU = torch.device("cpu")
ALL = 1 << 20
SYSTEM = (5, 17, 33, 41, 8, 90)


def some_documents() -> list[Document]:
    """Documents that begin alike, of several lengths and with one to three spans."""
    numbers = torch.randint(10, 300, (4, 40), generator=torch.Generator().manual_seed(3)).tolist()
    return [
        Document((*SYSTEM, *numbers[0][:9]), ((10, 15),)),
        Document((*SYSTEM, *numbers[1][:30]), ((12, 18), (25, 36))),
        Document((*SYSTEM, *numbers[2][:14]), ((8, 9), (11, 14), (17, 20))),
        Document((*SYSTEM, *numbers[3][:9]), ((7, 15),)),
    ]


@pytest.fixture
def model() -> Any:
    """A tiny Llama with LoRA everywhere, B not zero, so that every gradient is."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    tuned = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, lora_alpha=8, target_modules=names))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return tuned


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad(set_to_none=True)
    return found


def reference(model: Any, documents: list[Document]) -> tuple[float, dict[str, torch.Tensor]]:
    """Transformers' own loss of each row alone, times its labels, summed and divided by all labels."""
    weight = sum(document.trained for document in documents)
    total = 0.0
    for document in documents:
        ids = torch.tensor([document.ids])
        labels = torch.full_like(ids, -100)
        for start, end in document.spans:
            labels[0, start:end] = ids[0, start:end]
        loss = model(input_ids=ids, labels=labels).loss * document.trained
        (loss / weight).backward()
        total += float(loss.detach())
    return total / weight, gradients(model)


def ours(model: Any, documents: list[Document], budget: int, share: bool) -> tuple[float, dict[str, torch.Tensor]]:
    total, weight = 0.0, 0.0
    for batch in to_batches(documents, budget, share, CPU):
        loss, batch_weight = sft(model, batch)
        loss.backward()
        total, weight = total + float(loss.detach()), weight + batch_weight
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= weight
    return total / weight, gradients(model)


@pytest.mark.parametrize("share", PLAIN_AND_PACKED)
@pytest.mark.parametrize("budget", [1, 40, 62, ALL])
def test_loss_and_every_gradient_equal_those_of_one_row_at_a_time(model: Any, budget: int, share: bool) -> None:
    documents = some_documents()
    expected_loss, expected = reference(model, documents)
    if share:
        assert packed_attention.switch_on(model.get_base_model()) == "sdpa"
    loss, found = ours(model, documents, budget, share)
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float(gradient.abs().max()) > 1e-4, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_the_budgets_above_cut_the_rows_in_different_ways() -> None:
    documents = some_documents()
    sizes = {budget: [len(b.positions[0]) for b in to_batches(documents, budget, False, CPU)] for budget in (1, 40, 62)}
    assert sizes == {1: [36, 20, 15, 15], 40: [36, 30, 20], 62: [50, 36]}
    assert [batch.ids.shape[1] for batch in to_batches(documents, ALL, False, CPU)] == [86]
    [packed] = to_batches(documents, ALL, True, CPU)
    assert len(pack(documents, True).ids) == 86 - 3 * len(SYSTEM) == 68
    assert packed.ids.shape[1] == 128  # the next multiple of 64
    assert packed.layout["grids"] == ((4, 64),)  # the longest has 36 tokens: the next multiple of 32
    assert packed.layout["gather"].shape == (256,)
    assert packed.layout["scatter"].shape == (128,)
    assert packed.num_tokens == 86


def test_without_restarted_positions_the_loss_is_another(model: Any) -> None:
    documents = some_documents()
    expected, _ = reference(model, documents)
    batch = to_batches(documents, ALL, False, CPU)[0]
    length = batch.ids.shape[1]
    running = Batch(
        batch.ids, torch.arange(length)[None], batch.target_positions, batch.target_ids, {}, batch.num_tokens
    )
    loss, weight = sft(model, running)
    assert abs(loss.item() / weight - expected) > 1e-2


@needs_kernels
def test_a_grid_that_mixes_two_documents_gives_another_loss(model: Any) -> None:
    documents = some_documents()
    expected, _ = reference(model, documents)
    packed_attention.switch_on(model.get_base_model())
    batch = to_batches(documents, ALL, True, CPU)[0]
    grid = batch.layout["gather"].view(4, 64)
    grid[3, 6:14] = grid[2, 6:14]
    loss, weight = sft(model, batch)
    assert abs(loss.item() / weight - expected) > 1e-2


@pytest.mark.parametrize("share", PLAIN_AND_PACKED)
def test_logits_are_the_same_bits_whatever_the_neighbour(model: Any, share: bool) -> None:
    first, _, third, _ = some_documents()
    other = Document((*SYSTEM, *reversed(third.ids[len(SYSTEM) :])), third.spans)
    if share:
        packed_attention.switch_on(model.get_base_model())
    own = []
    for neighbour in (third, other):
        batch = to_batch(pack([first, neighbour], share), CPU)
        with torch.inference_mode():
            logits = model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False, **batch.layout).logits[0]
        own.append(logits[: len(first.ids)])
        assert logits.shape[0] == (64 if share else len(first.ids) + len(third.ids))
    assert torch.equal(own[0], own[1])


def test_a_neighbour_without_restarted_positions_does_change_the_logits(model: Any) -> None:
    first, _, third, _ = some_documents()
    later = []
    for neighbour in (third, Document(tuple(reversed(third.ids)), third.spans)):
        batch = to_batch(pack([neighbour, first], False), CPU)
        with torch.inference_mode():
            later.append(model(input_ids=batch.ids, use_cache=False).logits[0, len(third.ids) :])
    assert not torch.allclose(later[0], later[1], atol=1e-3)


@needs_kernels
def test_what_fills_a_batch_up_is_seen_by_nobody(model: Any) -> None:
    documents = some_documents()
    packed_attention.switch_on(model.get_base_model())
    batch = to_batch(pack(documents, True), CPU)
    used = len(pack(documents, True).ids)
    assert used < batch.ids.shape[1]
    assert int(batch.target_positions.max()) < used
    ids, positions = batch.ids.clone(), batch.positions.clone()
    ids[:, used:], positions[:, used:] = 17, 3
    with torch.inference_mode():
        losses = [sft(model, one)[0] for one in (batch, replace(batch, ids=ids, positions=positions))]
    assert torch.equal(losses[0], losses[1])


@pytest.mark.parametrize("share", PLAIN_AND_PACKED)
@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_a_step_ends_at_the_same_weights_however_it_is_cut(model: Any, share: bool, max_norm: float | None) -> None:
    documents = some_documents()
    if share:
        packed_attention.switch_on(model.get_base_model())
    start = copy.deepcopy(model.state_dict())
    ends: list[dict[str, torch.Tensor]] = []
    norms = []
    for budget in (1, 40, 62, ALL):
        model.load_state_dict(start)
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        # Plain gradient descent: Adam's first step is ±rate whatever the gradient's size, which would hide a wrong one.
        backend = Replicated(model, trained, lambda masters: torch.optim.SGD(masters.values(), lr=1.0))
        batches = to_batches(documents, budget, share, CPU)
        weight = sum(batch.weight for batch in batches)
        for batch in batches:
            backend.backward(sft(model, batch)[0] / weight, batch is batches[-1])
        norms.append(backend.step(max_norm)[0])
        assert all(parameter.grad is None for parameter in trained.values())
        ends.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})
    moved = sum(float((ends[0][name] - start[name]).square().sum()) for name in ends[0]) ** 0.5
    assert moved == pytest.approx(min(norms[0], max_norm or norms[0]), rel=1e-3)
    assert norms[0] > 0.1
    assert norms[1:] == pytest.approx([norms[0]] * 3, rel=1e-4)
    for end in ends[1:]:
        for name, value in ends[0].items():
            torch.testing.assert_close(end[name], value, rtol=1e-4, atol=1e-6)
