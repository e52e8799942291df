"""What is minimised: `objective(model, batch) → (loss_sum, weight)`.

The sums, not means, are what makes a step independent of how it is cut into micro-batches: losses and weights are
added over all of them before one is divided by the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from danlu.data.packing import Pack


@dataclass(frozen=True)
class Batch:
    """A pack as tensors. T computed tokens, N targets.

    Attributes:
        ids: `[1, T]` token ids.
        positions: `[1, T]` positions within each document.
        target_positions: `[N]` where the targets are predicted.
        target_ids: `[N]` what is to be predicted.
        layout: `gather` `[D, L]` and `scatter` `[T]` for the packed attention, or nothing.
        num_tokens: tokens of the documents.
        states: `[1, T, hidden_size]` that enter the first trained layer, where the layers below it are not
            computed again (see `danlu.training.frozen`); else None.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    target_positions: torch.Tensor
    target_ids: torch.Tensor
    layout: dict[str, torch.Tensor]
    num_tokens: int
    states: torch.Tensor | None = None


class Objective(Protocol):
    """Loss of a batch as a sum, and the weight to divide it by."""

    def __call__(self, model: Any, batch: Batch) -> tuple[torch.Tensor, float]:
        """See the module's text."""
        ...


def to_batch(pack: Pack, device: torch.device) -> Batch:
    """Makes tensors of a pack."""
    layout = {}
    if pack.gather:
        layout = {
            "gather": torch.tensor(pack.gather, device=device),
            "scatter": torch.tensor(pack.scatter, device=device),
        }
    return Batch(
        torch.tensor([pack.ids], device=device),
        torch.tensor([pack.positions], device=device),
        torch.tensor(pack.target_positions, device=device),
        torch.tensor(pack.target_ids, device=device),
        layout,
        pack.num_tokens,
    )


def sft(model: Any, batch: Batch) -> tuple[torch.Tensor, float]:
    """Supervised fine-tuning: summed cross-entropy of the answer tokens, in float32; weight is their number.

    Logits are made for the predicting positions only.
    """
    inputs = {"input_ids": batch.ids} if batch.states is None else {"inputs_embeds": batch.states}
    output = model(
        **inputs,
        position_ids=batch.positions,
        use_cache=False,
        logits_to_keep=batch.target_positions,
        **batch.layout,
    )
    loss = torch.nn.functional.cross_entropy(output.logits[0].float(), batch.target_ids, reduction="sum")
    return loss, float(len(batch.target_ids))
