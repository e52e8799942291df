"""The loss in chunks is the loss by way of all logits, and so is the gradient of the states.

The softmax is taken in float32 whatever the states are, so finite differences in float64 can't be its measure: it is
held against float64 autograd of the formula, in float32 to 1e-5 of the gradient's norm. In bfloat16 it may be off by
no more than twice what the reference in bfloat16 is off by.
"""

from __future__ import annotations

import pytest
import torch

from danlu.kernels.chosen_loss import chosen_loss, plain_loss

SIZES = [(1, 7), (31, 50), (33, 257), (300, 1001)]  # tokens, vocabulary
KINDS = [(1.0, None), (0.0625, None), (1.0, 30.0), (3.0, 2.0)]  # scale, soft cap
SMOOTHINGS = [0.0, 0.1, 0.9]


def make(tokens: int, vocabulary: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(tokens, 16, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocabulary, 16, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype), targets


def in_float64(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    scale: float,
    softcap: float | None,
    smoothing: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    wide = hidden.detach().double().requires_grad_()
    logits = wide @ weight.double().t() * scale
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    return loss.detach(), torch.autograd.grad(loss, wide)[0]


def loss_and_gradient(loss: torch.Tensor, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return loss.detach(), torch.autograd.grad(loss, hidden)[0]


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize(("scale", "softcap"), KINDS)
@pytest.mark.parametrize(("tokens", "vocabulary"), SIZES)
def test_loss_and_gradient_are_those_of_float64(
    tokens: int, vocabulary: int, scale: float, softcap: float | None, smoothing: float
) -> None:
    hidden, weight, targets = make(tokens, vocabulary, torch.float32)
    expected = in_float64(hidden, weight, targets, scale, softcap, smoothing)
    found = loss_and_gradient(chosen_loss(hidden, weight, targets, scale, softcap, label_smoothing=smoothing), hidden)
    assert found[0].dtype == torch.float32
    assert distance(found[0], expected[0]) < 1e-6
    assert distance(found[1], expected[1]) < 1e-5
    reference = loss_and_gradient(plain_loss(hidden, weight, targets, scale, softcap, smoothing), hidden)
    assert distance(reference[0], expected[0]) < 1e-6
    assert distance(reference[1], expected[1]) < 1e-5


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize(("scale", "softcap"), KINDS)
@pytest.mark.parametrize(("tokens", "vocabulary"), SIZES)
def test_bfloat16_is_no_further_from_the_truth_than_twice_the_reference(
    tokens: int, vocabulary: int, scale: float, softcap: float | None, smoothing: float
) -> None:
    hidden, weight, targets = make(tokens, vocabulary, torch.bfloat16)
    expected = in_float64(hidden, weight, targets, scale, softcap, smoothing)
    found = loss_and_gradient(chosen_loss(hidden, weight, targets, scale, softcap, label_smoothing=smoothing), hidden)
    reference = loss_and_gradient(plain_loss(hidden, weight, targets, scale, softcap, smoothing), hidden)
    assert found[0].dtype == torch.float32
    assert found[1].dtype == torch.bfloat16
    for one, other, wanted in zip(found, reference, expected, strict=True):
        # 2^-8 is one rounding to bfloat16: few numbers, as those of one token, may by chance be rounded well.
        assert distance(one, wanted) < max(2 * distance(other, wanted), 2**-8)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("scale", "softcap"), KINDS)
@pytest.mark.parametrize("max_logits", [1, 1001, 64 * 1001, 299 * 1001])
def test_many_chunks_give_what_one_chunk_gives(
    max_logits: int, scale: float, softcap: float | None, smoothing: float
) -> None:
    hidden, weight, targets = make(300, 1001, torch.float32)
    whole = loss_and_gradient(chosen_loss(hidden, weight, targets, scale, softcap, label_smoothing=smoothing), hidden)
    cut = loss_and_gradient(chosen_loss(hidden, weight, targets, scale, softcap, max_logits, smoothing), hidden)
    assert distance(cut[0], whole[0]) < 1e-6
    assert distance(cut[1], whole[1]) < 1e-6


def test_no_more_logits_exist_at_once_than_was_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets = make(300, 1001, torch.float32)
    made: list[int] = []
    linear = torch.nn.functional.linear

    def note(*given: torch.Tensor) -> torch.Tensor:
        made.append(linear(*given).numel())
        return linear(*given)

    monkeypatch.setattr(torch.nn.functional, "linear", note)
    chosen_loss(hidden, weight, targets, max_logits=64 * 1001)
    assert sum(made) == 300 * 1001
    assert max(made) == 64 * 1001


def test_the_gradient_is_scaled_by_what_comes_from_above() -> None:
    hidden, weight, targets = make(33, 257, torch.float32)
    (once,) = torch.autograd.grad(chosen_loss(hidden, weight, targets), hidden)
    (half,) = torch.autograd.grad(chosen_loss(hidden, weight, targets) / 2, hidden)
    assert torch.equal(half, once / 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_head_gets_no_gradient_and_no_grad_gives_the_same_loss(smoothing: float) -> None:
    hidden, weight, targets = make(33, 257, torch.float32)
    weight.requires_grad_()
    before = hidden.detach().clone(), weight.detach().clone()
    loss = chosen_loss(hidden, weight, targets, 0.5, 3.0, label_smoothing=smoothing)
    loss.backward()
    assert hidden.grad is not None
    assert weight.grad is None
    with torch.no_grad():
        still = chosen_loss(hidden, weight, targets, 0.5, 3.0, label_smoothing=smoothing)
    assert torch.equal(loss, still)
    assert not still.requires_grad
    assert torch.equal(hidden, before[0])
    assert torch.equal(weight, before[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_no_targets_have_no_loss(smoothing: float) -> None:
    hidden, weight, targets = make(33, 257, torch.float32)
    loss = chosen_loss(hidden[:0], weight, targets[:0], label_smoothing=smoothing)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert hidden.grad is not None
    assert not hidden.grad.any()
