"""Which attention trains: the packed kernel where it is proven on this very model, else the plain path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from danlu.data.store import Store
from danlu.data.template import Document
from danlu.training.feed import to_batches
from danlu.training.objectives import sft

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class PlainAttention:
    """Transformers' own attention over packed documents, with the mask it makes from restarting positions.

    Attributes:
        name: for the log.
        shares_prefix: whether packs may compute a common prefix once.
    """

    name: str = "plain"
    shares_prefix: bool = False

    def off(self, model: Any) -> None:
        """Nothing was changed."""


@dataclass(frozen=True)
class KernelAttention:
    """The packed kernel, and what the model had before."""

    before: str
    name: str = "packed"
    shares_prefix: bool = True

    def off(self, model: Any) -> None:
        """Gives the model back the attention it had."""
        from danlu.kernels import packed_attention

        packed_attention.switch_off(model.get_base_model(), self.before)


def choose_attention(model: Any, store: Store | Sequence[Document]) -> PlainAttention | KernelAttention:
    """Switches the packed kernel on if the model takes it and its loss on a real pack equals the plain path's."""
    try:
        from danlu.kernels import packed_attention
    except ImportError:
        return PlainAttention("plain (no kernels)")
    documents = [store[index] for index in range(min(3, len(store)))]
    base = model.get_base_model()
    plain = _loss(model, documents, share_prefix=False)
    before = packed_attention.switch_on(base)
    if before is None:
        return PlainAttention("plain (the model can't take the packed kernel)")
    kernel = KernelAttention(before)
    try:
        packed = _loss(model, documents, share_prefix=True)
    except (TypeError, RuntimeError, IndexError):
        packed = float("nan")
    if not abs(packed - plain) <= _TOLERANCE.get(base.dtype, 2e-2) * max(1.0, abs(plain)):
        kernel.off(model)
        return PlainAttention(f"plain (the packed kernel's loss is {packed:.4f}, not {plain:.4f})")
    return kernel


def _loss(model: Any, documents: list[Any], share_prefix: bool) -> float:
    batches = to_batches(documents, 1 << 30, share_prefix, next(model.parameters()).device)
    with torch.inference_mode():
        loss, weight = sft(model, batches[0])
    return float(loss) / weight
