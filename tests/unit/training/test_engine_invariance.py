"""With all kernels in, a step's loss and gradients do not depend on how its rows are packed, cut or ordered.

Sums are taken in another order then, so float32 may be off by 1e-5 of a gradient's norm. What a document gets beside
another neighbour of the same length is the same bits.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import SIZES
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from danlu.adapters.kinds import Lora
from danlu.adapters.lora import add_adapter
from danlu.adapters.targets import resolve_targets
from danlu.data.packing import pack
from danlu.data.template import Document
from danlu.training.engine import Engine, choose_engine
from danlu.training.feed import to_batches
from danlu.training.objectives import Batch, sft, to_batch

CPU = torch.device("cpu")
ALL = 1 << 20
SYSTEM = (5, 17, 33, 41, 8, 90)
CONFIGS = {
    "llama": lambda: LlamaConfig(**SIZES),
    "gemma2": lambda: Gemma2Config(
        **SIZES, head_dim=16, sliding_window=8, attn_logit_softcapping=2.0, final_logit_softcapping=5.0
    ),
}
Measured = tuple[float, dict[str, torch.Tensor]]


def some_documents() -> list[Document]:
    """Documents that begin alike, of several lengths and with one to three spans; one is longer than a block."""
    numbers = torch.randint(10, 300, (6, 150), generator=torch.Generator().manual_seed(3)).tolist()
    return [
        Document((*SYSTEM, *numbers[0][:9]), ((10, 15),)),
        Document((*SYSTEM, *numbers[1][:30]), ((12, 18), (25, 36))),
        Document((*SYSTEM, *numbers[2][:14]), ((8, 9), (11, 14), (17, 20))),
        Document((*SYSTEM, *numbers[3][:9]), ((7, 15),)),
        Document((*SYSTEM, *numbers[4][:140]), ((60, 146),)),
        Document((*SYSTEM, *numbers[5][:30]), ((30, 36),)),
    ]


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Any:
    """A tiny model with LoRA on all layers, B not zero, so that every gradient is."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(CONFIGS[request.param]()).eval()
    tuned = add_adapter(base, Lora(4, 8.0), resolve_targets(base, "all-linear"), 0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return tuned


def chosen_for(model: Any) -> Engine:
    engine = choose_engine(model, some_documents())
    assert engine.name == "packed attention, fused layers, chunked loss"
    return engine


def measure(model: Any, objective: Any, batches: list[Batch]) -> Measured:
    total = weight = 0.0
    for batch in batches:
        loss, batch_weight = objective(model, batch)
        loss.backward()
        total, weight = total + loss.item(), weight + batch_weight
    found = {name: parameter.grad / weight for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.zero_grad(set_to_none=True)
    return total / weight, found


def require_close(found: Measured, expected: Measured) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert float(gradient.norm()) > 1e-3, name
        assert float((found[1][name] - gradient).norm()) < 1e-5 * float(gradient.norm()), name


def test_any_budget_gives_the_loss_and_gradients_of_plain_rows(model: Any) -> None:
    documents = some_documents()
    expected = measure(model, sft, to_batches(documents, 1, False, CPU))
    engine = chosen_for(model)
    numbers = []
    for budget in (1, 40, 62, 130, 200, ALL):
        batches = to_batches(documents, budget, True, CPU)
        numbers.append(len(batches))
        require_close(measure(model, engine.objective, batches), expected)
    assert numbers == sorted(numbers, reverse=True)
    assert len(set(numbers)) >= 4


def test_the_order_of_a_step_s_rows_makes_no_difference(model: Any) -> None:
    documents = some_documents()
    engine = chosen_for(model)
    expected = measure(model, engine.objective, [to_batch(pack(documents, True), CPU)])
    for order in ((5, 4, 3, 2, 1, 0), (2, 0, 4, 5, 3, 1)):
        moved = [documents[index] for index in order]
        require_close(measure(model, engine.objective, [to_batch(pack(moved, True), CPU)]), expected)
        require_close(measure(model, engine.objective, to_batches(moved, 62, True, CPU)), expected)


def test_a_document_twice_weighs_twice(model: Any) -> None:
    first, second = some_documents()[:2]
    engine = chosen_for(model)
    batches = [to_batch(pack([one], True), CPU) for one in (first, second, second)]
    expected = measure(model, engine.objective, batches)
    require_close(measure(model, engine.objective, [to_batch(pack([first, second, second], True), CPU)]), expected)


@pytest.mark.parametrize("own_place", [0, 1, 2])
def test_another_neighbour_of_the_same_length_changes_no_bit(model: Any, own_place: int) -> None:
    documents = some_documents()
    own, neighbours = documents[2], [documents[1], documents[4]]
    others = [Document((*SYSTEM, *reversed(one.ids[len(SYSTEM) :])), one.spans) for one in neighbours]
    engine = chosen_for(model)
    logits, losses, gradients = [], [], []
    for beside in (neighbours, others):
        row = [*beside[:own_place], own, *beside[own_place:]]
        packed = pack(row, True)
        batch = to_batch(packed, CPU)
        first = len(SYSTEM) + sum(len(one.ids) - len(SYSTEM) for one in row[:own_place])
        first_target = sum(one.trained for one in row[:own_place])
        targets = slice(first_target, first_target + own.trained)
        with torch.no_grad():
            every = model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False, **batch.layout).logits[0]
        logits.append(every[first : first + len(own.ids) - len(SYSTEM)])
        mine = Batch(
            batch.ids,
            batch.positions,
            batch.target_positions[targets],
            batch.target_ids[targets],
            batch.layout,
            batch.num_tokens,
        )
        loss, weight = engine.objective(model, mine)
        assert weight == own.trained
        losses.append(loss.detach())
        loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
        model.zero_grad(set_to_none=True)
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(losses[0], losses[1])
    # Gradients are sums over all tokens of the pack, in which the neighbours' share is zero.
    for one, other in zip(*gradients, strict=True):
        assert one.any()
        assert torch.equal(one, other)
    with torch.no_grad():
        alone = engine.objective(model, to_batch(pack([own], True), CPU))[0]
    assert float(losses[0]) == pytest.approx(float(alone), rel=1e-6)
