"""Linear layers with LLM.int8()'s weights (arXiv 2208.07339), multiplied with what comes as it is.

bitsandbytes rounds what comes to 8 bits too: on a GPU always, on a processor in evaluation but not in training. The
model that answers would then not be the one that was trained, nor any that an export could hold, and a row's large
values would decide how its neighbours are rounded.
"""

from __future__ import annotations

from typing import Any

import bitsandbytes
import torch

from danlu.models.quantization import dequantized


class WeightOnlyInt8(bitsandbytes.nn.Linear8bitLt):  # type: ignore[misc]
    """bitsandbytes' layer, with a forward of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., in]` to `[..., out]`, in x's dtype."""
        output: torch.Tensor = _Product.apply(x, self)
        return output


class _Product(torch.autograd.Function):  # type: ignore[misc]
    """x·Wᵀ + b. Backward makes the frozen W anew, so that no layer's W is kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: WeightOnlyInt8) -> torch.Tensor:
        ctx.layer = layer
        return torch.nn.functional.linear(x, dequantized(layer, x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient @ dequantized(ctx.layer, gradient.dtype), None
