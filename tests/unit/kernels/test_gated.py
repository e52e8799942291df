"""The gated product gives what its reference gives, and so do its gradients."""

from __future__ import annotations

import pytest
import torch

from danlu.kernels.gated import ACTIVATIONS, gated, plain_gated

SHAPES = [(1, 1), (3, 5), (2, 7, 33), (300, 17)]


def make(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    gate, up, given = (3 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    return gate.to(dtype).requires_grad_(), up.to(dtype).requires_grad_(), given.to(dtype)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.detach().double() - expected.detach().double()).norm() / expected.detach().double().norm())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 0.0)], ids=str)
def test_product_and_gradients_equal_the_reference(
    shape: tuple[int, ...], activation: str, dtype: torch.dtype, bound: float
) -> None:
    gate, up, given = make(shape, dtype)
    found, expected = gated(gate, up, activation), plain_gated(gate, up, activation)
    assert torch.equal(found, expected)
    pairs = zip(
        torch.autograd.grad(found, [gate, up], given), torch.autograd.grad(expected, [gate, up], given), strict=True
    )
    for one, other in pairs:
        assert one.dtype == dtype
        assert distance(one, other) <= bound


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_finite_differences(activation: str) -> None:
    gate, up, _ = make((3, 5), torch.float64)
    assert torch.autograd.gradcheck(lambda gate, up: gated(gate, up, activation), (gate, up))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nothing_is_kept_but_gate_and_up(activation: str) -> None:
    gate, up, _ = make((3, 5), torch.float32)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        product = gated(gate, up, activation)
    assert {t.data_ptr() for t in kept} == {gate.data_ptr(), up.data_ptr()}
    with torch.no_grad():
        still = gated(gate, up, activation)
    assert torch.equal(product, still)
    assert not still.requires_grad
