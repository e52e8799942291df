"""Root-mean-square normalisation (arXiv 1910.07467) whose backward keeps the input and one number a row.

Transformers' own modules keep two float32 copies of the input. The formulas that its models use are here: `llama`
rounds the normalised input to its dtype before it is multiplied with the weight, `olmo` multiplies in float32 and
rounds once, `gemma` does so with 1 + weight.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from danlu.kernels import gpu
from danlu.kernels.remade import note_making

STYLES = ("llama", "olmo", "gemma")


def plain_rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float, style: str) -> torch.Tensor:
    """The reference."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    if style == "llama":
        return weight * wide.to(x.dtype)
    return (wide * _factor(weight, style)).to(x.dtype)


def _factor(weight: torch.Tensor, style: str) -> torch.Tensor:
    return 1.0 + weight.float() if style == "gemma" else weight.float()


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float, style: str) -> torch.Tensor:
    """Gives x over its root mean square along the last dimension, times the weight.

    Args:
        x: `[..., size]`.
        weight: `[size]`, frozen.
        epsilon: added to the mean square.
        style: one of `STYLES`.
    """
    if gpu.has_liger(x):
        make = functools.partial(gpu.rms_norm, epsilon=epsilon, style=style)
        return note_making(make(x, weight), make, x, weight)
    inverse = _inverse(x.detach(), epsilon)
    normed: torch.Tensor = _RmsNorm.apply(x, inverse, weight, style)
    return note_making(normed, functools.partial(_normed, style=style), x, inverse, weight)


def _inverse(x: torch.Tensor, epsilon: float) -> torch.Tensor:
    """One over the root mean square, `[..., 1]`, float32."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()


def _normed(x: torch.Tensor, inverse: torch.Tensor, weight: torch.Tensor, style: str) -> torch.Tensor:
    if style == "llama":
        return torch.mul(x, inverse).to(x.dtype).mul_(weight)
    return torch.mul(x, inverse).mul_(_factor(weight, style)).to(x.dtype)


class _RmsNorm(torch.autograd.Function):  # type: ignore[misc]
    """Takes what `_normed` takes."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, inverse: torch.Tensor, weight: torch.Tensor, style: str) -> torch.Tensor:
        ctx.save_for_backward(x, inverse, weight)
        ctx.style = style
        return _normed(x, inverse, weight, style)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, inverse, weight = ctx.saved_tensors
        # With n = x·inverse and g = gradient·weight: (g - n·mean(g·n))·inverse.
        normed = torch.mul(x, inverse)
        scaled = torch.mul(gradient.float(), _factor(weight, ctx.style))
        mean = torch.mul(scaled, normed).mean(-1, keepdim=True)
        return scaled.sub_(normed.mul_(mean)).mul_(inverse).to(x.dtype), None, None, None
