"""The product act(gate)·up of gated MLPs (arXiv 2002.05202) whose backward keeps gate and up alone."""

from __future__ import annotations

import functools
from typing import Any

import torch

from danlu.kernels import gpu
from danlu.kernels.remade import note_making

ACTIVATIONS = ("silu", "gelu_tanh")


def plain_gated(gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    """The reference."""
    return _activate(gate, activation) * up


def gated(gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    """Gives act(gate)·up.

    Args:
        gate: any shape.
        up: as `gate`.
        activation: one of `ACTIVATIONS`.
    """
    if gpu.has_liger(gate):
        make = functools.partial(gpu.gated, activation=activation)
        return note_making(make(gate, up), make, gate, up)
    product: torch.Tensor = _Gated.apply(gate, up, activation)
    return note_making(product, functools.partial(_product, activation=activation), gate, up)


def _product(gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    return _activate(gate, activation).mul_(up)


def _activate(gate: torch.Tensor, activation: str) -> torch.Tensor:
    functional = torch.nn.functional
    return functional.silu(gate) if activation == "silu" else functional.gelu(gate, approximate="tanh")


class _Gated(torch.autograd.Function):  # type: ignore[misc]
    """Takes what `gated` takes."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return _product(gate, up, activation)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        of_up = _activate(gate, ctx.activation).mul_(gradient)
        of_active = gradient * up
        if ctx.activation == "silu":
            of_gate = torch.ops.aten.silu_backward(of_active, gate)
        else:
            of_gate = torch.ops.aten.gelu_backward(of_active, gate, approximate="tanh")
        return of_gate, of_up, None
