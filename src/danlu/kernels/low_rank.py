"""Frozen linear layers with low-rank adapters (LoRA, arXiv 2106.09685), those that share an input as one.

For each layer i of a group, y_i = x·W_iᵀ + b_i + s_i·(x·A_iᵀ)·B_iᵀ. The products with all A_i are one product, and so
is their gradient. Backward keeps x and x·A alone, and x only where it can't be made again from what is kept anyway (see
`danlu.kernels.remade`); W never gets a gradient. Everything is computed in x's dtype, the
gradients of A and B are given in theirs. A W that is kept in fewer bits is made once for the product, and once again
for the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

from danlu.kernels.remade import Making, making_of

# `[out, in]`, or what makes it in a dtype.
Weight: TypeAlias = torch.Tensor | Callable[[torch.dtype], torch.Tensor]


class LowRank(NamedTuple):
    """One adapted layer.

    Attributes:
        weight: frozen; a tensor may be a transposed view.
        bias: `[out]`, frozen, or None.
        down: A, `[rank, in]`.
        up: B, `[out, rank]`.
        scaling: s.
    """

    weight: Weight
    bias: torch.Tensor | None
    down: torch.Tensor
    up: torch.Tensor
    scaling: float


def plain_low_rank(x: torch.Tensor, layer: LowRank) -> torch.Tensor:
    """The reference, as PEFT computes it with everything in one dtype."""
    linear = torch.nn.functional.linear
    update = linear(linear(x, layer.down.to(x.dtype)), layer.up.to(x.dtype))
    return linear(x, _made(layer.weight, x.dtype), layer.bias) + update * layer.scaling


def low_rank(
    x: torch.Tensor, layers: Sequence[LowRank], dropped: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """The outputs of layers that all have the input x.

    Args:
        x: `[..., in]`.
        layers: at least one.
        dropped: the input of the adapters, where it is not x: x after dropout.

    Returns:
        `[..., out]` for each layer.
    """
    frozen = [(layer.weight, layer.bias, layer.scaling) for layer in layers]
    outputs: tuple[torch.Tensor, ...] = _LowRank.apply(
        x,
        dropped,
        frozen,
        making_of(x) if dropped is None else None,
        *(layer.down for layer in layers),
        *(layer.up for layer in layers),
    )
    return outputs


def _made(weight: Weight, dtype: torch.dtype) -> torch.Tensor:
    return weight if isinstance(weight, torch.Tensor) else weight(dtype)


class _LowRank(torch.autograd.Function):  # type: ignore[misc]
    """Input x, the adapters' input or None, (weight, bias, scaling) of each layer, how x was made or None, As, Bs."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        dropped: torch.Tensor | None,
        frozen: list[tuple[Weight, torch.Tensor | None, float]],
        making: Making | None,
        *adapters: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        count = len(frozen)
        flat = x.reshape(-1, x.shape[-1])
        downs = torch.cat([down.to(x.dtype) for down in adapters[:count]])
        low = flat if dropped is None else dropped.reshape(flat.shape)
        reduced = low @ downs.t()
        outputs = []
        for (weight, bias, scaling), up, part in zip(
            frozen, adapters[count:], reduced.split([down.shape[0] for down in adapters[:count]], 1), strict=True
        ):
            output = torch.nn.functional.linear(flat, _made(weight, flat.dtype), bias)
            output.addmm_(part, up.to(x.dtype).t(), alpha=scaling)
            outputs.append(output.view(*x.shape[:-1], -1))
        # Of x itself, the shape is all that is needed.
        ctx.save_for_backward(reduced, *adapters, *(making.sources if making else [low]))
        ctx.frozen, ctx.shape, ctx.apart = frozen, x.shape, dropped is not None
        ctx.make = making.make if making else None
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        count = len(ctx.frozen)
        reduced, *saved = ctx.saved_tensors
        downs, ups, sources = saved[:count], saved[count : 2 * count], saved[2 * count :]
        low = ctx.make(*sources).view(-1, ctx.shape[-1]) if ctx.make else sources[0]
        parts = reduced.split([down.shape[0] for down in downs], 1)
        of_x: torch.Tensor | None = None
        of_reduced, of_ups = torch.empty_like(reduced), []
        for (weight, _, scaling), up, part, own, gradient in zip(
            ctx.frozen, ups, parts, of_reduced.split([down.shape[0] for down in downs], 1), gradients, strict=True
        ):
            rows = gradient.reshape(-1, gradient.shape[-1])
            own.copy_(rows @ up.to(rows.dtype)).mul_(scaling)
            of_ups.append((rows.t() @ part).to(up.dtype).mul_(scaling))
            if ctx.needs_input_grad[0]:
                frozen = _made(weight, rows.dtype)
                of_x = rows @ frozen if of_x is None else of_x.addmm_(rows, frozen)
        of_downs = (of_reduced.t() @ low).split([down.shape[0] for down in downs])
        of_dropped = None
        if of_x is not None:
            stacked = torch.cat([down.to(low.dtype) for down in downs])
            if ctx.apart:
                of_dropped = (of_reduced @ stacked).view(ctx.shape)
            else:
                of_x.addmm_(of_reduced, stacked)
            of_x = of_x.view(ctx.shape)
        return (
            of_x,
            of_dropped,
            None,
            None,
            *(part.to(down.dtype) for part, down in zip(of_downs, downs, strict=True)),
            *of_ups,
        )
