"""Which attention trains: the packed kernel where it is proven on this very model, else Transformers' own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from danlu.data.packing import pack, shared_prefix
from danlu.data.store import Store
from danlu.data.template import Document
from danlu.training.feed import to_batches
from danlu.training.objectives import sft, to_batch

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class PlainAttention:
    """Transformers' own attention over packed documents, with the mask it makes from restarting positions.

    Attributes:
        name: for the log.
        shares_prefix: whether packs may compute a common prefix once.
        packs: whether documents may lie side by side at all.
    """

    name: str = "plain"
    shares_prefix: bool = False
    packs: bool = True

    def off(self, model: Any) -> None:
        """Nothing was changed."""


@dataclass(frozen=True)
class KernelAttention:
    """The packed kernel, and what the model had before."""

    before: str
    name: str = "packed"
    shares_prefix: bool = True
    packs: bool = True

    def off(self, model: Any) -> None:
        """Gives the model back the attention it had."""
        from danlu.kernels import packed_attention

        packed_attention.switch_off(model.get_base_model(), self.before)


def choose_attention(model: Any, store: Store | Sequence[Document]) -> PlainAttention | KernelAttention:
    """Proves on real documents how they may lie side by side: by the packed kernel, else plainly, else not at all.

    The truth is the loss of one row at a time. Transformers does not keep packed rows apart in every model: not in
    those with convolutions or recurrent states, nor where positions do not reach the attention mask.
    """
    documents = [store[index % len(store)] for index in range(3)]
    alone = _loss(model, documents, 1, share_prefix=False)
    kernel, reason = _try_kernel(model, documents, alone)
    if kernel:
        return kernel
    wrong = _what_is_wrong(model, documents, alone, share_prefix=False)
    if wrong:
        return PlainAttention(f"plain, one row at a time ({reason}; packed, the {wrong})", packs=False)
    return PlainAttention(f"plain ({reason})")


def _try_kernel(model: Any, documents: list[Document], alone: float) -> tuple[KernelAttention | None, str]:
    """The packed kernel, switched on, if it is right; else why not."""
    try:
        from danlu.kernels import packed_attention
    except ImportError:
        return None, "no kernels"
    before = packed_attention.switch_on(model.get_base_model())
    if before is None:
        return None, "the model can't take the packed kernel"
    kernel = KernelAttention(before)
    wrong = _what_is_wrong(model, documents, alone, share_prefix=True)
    if wrong:
        kernel.off(model)
        return None, f"the packed kernel's {wrong}"
    return kernel, ""


def _what_is_wrong(model: Any, documents: list[Document], alone: float, share_prefix: bool) -> str:
    """What packing these documents changes, or nothing."""
    tolerance = _TOLERANCE.get(model.get_base_model().dtype, 2e-2)
    try:
        packed = _loss(model, documents, 1 << 30, share_prefix)
        change = _change_by_neighbour(model, documents[0], documents[-1], share_prefix)
    except (TypeError, RuntimeError, IndexError):
        packed, change = float("nan"), 0.0
    if not abs(packed - alone) <= tolerance * max(1.0, abs(alone)):
        return f"loss is {packed:.4f}, not {alone:.4f}"
    return "rows see each other" if not change <= tolerance / 10 else ""


def _loss(model: Any, documents: list[Document], max_tokens: int, share_prefix: bool) -> float:
    """Mean loss per trained token."""
    batches = to_batches(documents, max_tokens, share_prefix, next(model.parameters()).device)
    with torch.inference_mode():
        sums = [sft(model, batch) for batch in batches]
    return sum(float(loss) for loss, _ in sums) / sum(weight for _, weight in sums)


def _change_by_neighbour(model: Any, first: Document, last: Document, share_prefix: bool) -> float:
    """By how much, relatively, the last document's loss changes once the tokens of the first are turned around."""
    head = shared_prefix([first, last])
    turned = Document(first.ids[:head] + first.ids[head:][::-1], first.spans)
    losses = []
    for neighbour in (first, turned):
        batch = to_batch(pack([neighbour, last], share_prefix), next(model.parameters()).device)
        own = replace(
            batch,
            target_positions=batch.target_positions[-last.trained :],
            target_ids=batch.target_ids[-last.trained :],
        )
        with torch.inference_mode():
            losses.append(float(sft(model, own)[0]))
    return abs(losses[0] - losses[1]) / max(1.0, abs(losses[0]))
