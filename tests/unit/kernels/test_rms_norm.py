"""The norm gives what its reference gives, and its gradient is that of the reference in float64.

The kernel computes in float32 whatever it is given, so finite differences in float64 can't be its measure: it is held
against float64 autograd of the formula, to 1e-6 of the norm (eight roundings of float32); in bfloat16 to one rounding
of each input and output, 2^-8, twice.
"""

from __future__ import annotations

import pytest
import torch

from danlu.kernels.rms_norm import STYLES, plain_rms_norm, rms_norm

SHAPES = [(1, 1, 1), (1, 8), (3, 7, 33), (300, 64)]


def make(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    x, given = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = 1 + 0.3 * torch.randn(shape[-1], generator=generator, dtype=torch.float64)
    return (x * 3).to(dtype).requires_grad_(), weight.to(dtype), given.to(dtype)


def in_float64(x: torch.Tensor, weight: torch.Tensor, epsilon: float, style: str) -> torch.Tensor:
    factor = 1 + weight.double() if style == "gemma" else weight.double()
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + epsilon) * factor


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.detach().double() - expected.detach().double()).norm() / expected.detach().double().norm())


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)], ids=str)
def test_output_and_gradient_are_those_of_float64(
    shape: tuple[int, ...], style: str, epsilon: float, dtype: torch.dtype, bound: float
) -> None:
    x, weight, given = make(shape, dtype)
    wide = x.detach().double().requires_grad_()
    expected = in_float64(wide, weight, epsilon, style)
    found = rms_norm(x, weight, epsilon, style)
    assert found.dtype == dtype
    assert distance(found, expected) < bound
    (of_x,) = torch.autograd.grad(found, x, given)
    (of_wide,) = torch.autograd.grad(expected, wide, given.double())
    assert of_x.dtype == dtype
    # A row's gradient is g less its part along x: what is lost there is lost relative to g, not to the difference.
    size = (given.double() * (1 + weight.double() if style == "gemma" else weight.double())).norm()
    slope = wide.detach().square().mean(-1).add(epsilon).rsqrt().max()
    assert float((of_x.double() - of_wide).norm()) < bound * float(size * slope)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_output_equals_the_reference_to_one_rounding(style: str, dtype: torch.dtype) -> None:
    x, weight, given = make((300, 64), dtype)
    found, expected = rms_norm(x, weight, 1e-6, style), plain_rms_norm(x, weight, 1e-6, style)
    one = torch.finfo(dtype).eps
    torch.testing.assert_close(found, expected, rtol=3 * one, atol=0.0)
    assert float((found != expected).float().mean()) < (0.01 if dtype == torch.bfloat16 else 1.0)
    (of_x,), (wanted,) = torch.autograd.grad(found, x, given), torch.autograd.grad(expected, x, given)
    assert distance(of_x, wanted) < one


@pytest.mark.parametrize("style", STYLES)
def test_the_weight_gets_no_gradient_and_no_grad_gives_the_same_bits(style: str) -> None:
    x, weight, given = make((3, 8), torch.float32)
    before = x.detach().clone()
    weight.requires_grad_()
    found = rms_norm(x, weight, 1e-6, style)
    found.backward(given)
    assert x.grad is not None
    assert weight.grad is None
    assert torch.equal(x, before)
    with torch.no_grad():
        still = rms_norm(x, weight, 1e-6, style)
    assert torch.equal(found, still)
    assert not still.requires_grad


@pytest.mark.parametrize("style", STYLES)
def test_a_row_of_zeros_gives_zeros_and_a_finite_gradient(style: str) -> None:
    _, weight, given = make((2, 8), torch.float32)
    x = torch.zeros(2, 8, requires_grad=True)
    found = rms_norm(x, weight, 1e-6, style)
    found.backward(given)
    assert not found.any()
    expected = torch.zeros(2, 8, requires_grad=True)
    plain_rms_norm(expected, weight, 1e-6, style).backward(given)
    torch.testing.assert_close(x.grad, expected.grad)
