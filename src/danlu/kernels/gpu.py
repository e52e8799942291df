"""On a GPU, the same operations by libraries that are made for it: Liger (arXiv 2410.10989) and FlashAttention.

They stand behind the names of our own. FlashAttention keeps packed documents apart by their positions, through
Transformers. As every kernel, they are held against the model's own code before a run trains with them (see
`danlu.training.engine`), and by `tests/gpu` against the processor.
"""

from __future__ import annotations

import functools
from importlib.util import find_spec
from typing import Any

import torch


def has_liger(tensor: torch.Tensor) -> bool:
    """Whether this tensor is on a GPU and Liger is installed."""
    return tensor.is_cuda and _liger_installed()


@functools.cache
def _liger_installed() -> bool:
    return find_spec("liger_kernel") is not None


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float, style: str) -> torch.Tensor:
    """As `danlu.kernels.rms_norm.rms_norm`."""
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction  # type: ignore[import-not-found]

    offset, casting = 1.0 if style == "gemma" else 0.0, "llama" if style == "llama" else "gemma"
    # Not in place: the gradient that would be written over is still needed where a residual branches off.
    normed: torch.Tensor = LigerRMSNormFunction.apply(x, weight, epsilon, offset, casting, False)
    return normed


def gated(gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    """As `danlu.kernels.gated.gated`."""
    from liger_kernel.ops.geglu import LigerGELUMulFunction  # type: ignore[import-not-found]
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction  # type: ignore[import-not-found]

    function = LigerSiLUMulFunction if activation == "silu" else LigerGELUMulFunction
    product: torch.Tensor = function.apply(gate, up)
    return product


def chosen_loss(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, softcap: float | None, label_smoothing: float
) -> torch.Tensor:
    """As `danlu.kernels.chosen_loss.chosen_loss`, without a scale."""
    from liger_kernel.ops.fused_linear_cross_entropy import (  # type: ignore[import-not-found]
        LigerFusedLinearCrossEntropyFunction,
    )

    nothing = (None, None, -100, 0.0)  # bias, class weights, ignored index, square of the sum
    given = (hidden, weight, targets, *nothing, label_smoothing, "sum", softcap)
    loss: torch.Tensor = LigerFusedLinearCrossEntropyFunction.apply(*given)[0]
    return loss


def switch_on(model: Any) -> str | None:
    """Makes a model on a GPU attend by FlashAttention (arXiv 2307.08691).

    Returns:
        The name of the attention it had; None if it is on no GPU, or can't be switched.
    """
    from transformers.utils import is_flash_attn_2_available

    if next(model.parameters()).device.type != "cuda" or not is_flash_attn_2_available():
        return None
    before: str = model.config._attn_implementation
    try:
        model.set_attn_implementation("flash_attention_2")
    except (ImportError, ValueError):
        return None
    return before
