"""What is minimised: `objective(model, batch) → (loss_sum, weight)`.

The sums, not means, are what makes a step independent of how it is cut into micro-batches: losses and weights are
added over all of them before one is divided by the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from danlu.adapters.lora import base_of
from danlu.data.packing import Pack

_ROUND_TOKENS, _ROUND_LENGTH = 64, 32
_COST_OF_GRID = 20_000  # in places of a document's scores, which a longer one in the grid makes it compute


@dataclass(frozen=True)
class Batch:
    """A pack as tensors. T computed tokens, N targets.

    Attributes:
        ids: `[1, T]` token ids.
        positions: `[1, T]` positions within each document.
        target_positions: `[N]` where the targets are predicted.
        target_ids: `[N]` what is to be predicted.
        layout: for the packed attention, what `danlu.kernels.packed_attention.Layout` has, and an `attention_mask`
            that says nothing; or empty.
        num_tokens: tokens of the documents.
        states: `[1, T, hidden_size]` that enter the first trained layer, where the layers below it are not
            computed again (see `danlu.training.frozen`); else None.
        counted: false where a batch is computed only because other processes compute one: it weighs nothing.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    target_positions: torch.Tensor
    target_ids: torch.Tensor
    layout: dict[str, Any]
    num_tokens: int
    states: torch.Tensor | None = None
    counted: bool = True

    @property
    def weight(self) -> float:
        """What the batch's summed loss is divided by, once summed with that of the step's other batches."""
        return float(len(self.target_ids)) if self.counted else 0.0

    @property
    def num_computed(self) -> int:
        """Tokens of the forward pass, what fills up among them."""
        return int(self.ids.shape[1])


class Objective(Protocol):
    """Loss of a batch as a sum, and the weight to divide it by."""

    def __call__(self, model: Any, batch: Any, label_smoothing: float = 0.0) -> tuple[torch.Tensor, float]:
        """See the module's text; labels are smoothed where a step is trained, never where a loss is measured."""
        ...


def to_batch(pack: Pack, device: torch.device) -> Batch:
    """Makes tensors of a pack.

    With grids, tokens and grids are filled up to round sizes: a processor's library keeps a program for each shape
    that it meets, and few shapes are met again soon. What fills up is seen by no document and predicts nothing.
    """
    ids, positions, layout = pack.ids, pack.positions, {}
    if pack.gather:
        more_tokens = -len(ids) % _ROUND_TOKENS
        ids, positions = ids + [ids[-1]] * more_tokens, positions + [0] * more_tokens
        longest = len(pack.gather[0])
        grids = _grids(pack, one=device.type == "cuda")
        gather: list[int] = []
        begins: list[int] = []  # of each document, among the places of all grids
        for documents, length in grids:
            for row in pack.gather[len(begins) :][:documents]:
                begins.append(len(gather))
                gather += row[:length] + row[-1:] * (length - longest)
        scatter = [begins[place // longest] + place % longest for place in pack.scatter]
        layout = {
            "gather": torch.tensor(gather, device=device),
            "scatter": torch.tensor([*scatter, *[len(gather)] * more_tokens], device=device),
            "grids": grids,
            "shared": pack.shared,
            # A mask with four dimensions is taken as it is: Transformers then makes none of T by T.
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        }
    return Batch(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        torch.tensor(pack.target_positions, device=device),
        torch.tensor(pack.target_ids, device=device),
        layout,
        pack.num_tokens,
    )


def _grids(pack: Pack, one: bool) -> tuple[tuple[int, int], ...]:
    """Documents and length of each grid: in their order, those of similar length in one.

    Args:
        pack: with `gather`.
        one: all in one, as a GPU likes it.
    """
    grids: list[tuple[int, int]] = []
    for row in pack.gather:
        tokens = row.index(row[-1]) + 1  # what comes behind is the last one again
        length = tokens + -tokens % _ROUND_LENGTH
        documents, before = grids[-1] if grids else (0, length)
        both = max(length, before)
        more = (documents + 1) * both**2 - documents * before**2 - length**2
        if documents and (one or more <= _COST_OF_GRID):
            grids[-1] = (documents + 1, both)
        else:
            grids.append((1, length))
    return tuple(grids)


def sft(model: Any, batch: Batch, label_smoothing: float = 0.0) -> tuple[torch.Tensor, float]:
    """Supervised fine-tuning: summed cross-entropy of the answer tokens, in float32; weight is their number.

    Logits are made for the predicting positions only.
    """
    output = model(**_inputs(batch), logits_to_keep=batch.target_positions)
    loss = torch.nn.functional.cross_entropy(
        output.logits[0].float(), batch.target_ids, reduction="sum", label_smoothing=label_smoothing
    )
    return loss, batch.weight


@dataclass(frozen=True)
class ChosenSft:
    """`sft` without all logits at once: the decoder's states go through the head in chunks.

    Attributes:
        head: `[vocabulary, hidden_size]`, frozen.
        scale: factor of the logits.
        softcap: of the logits (see `danlu.kernels.chosen_loss`).
    """

    head: torch.Tensor
    scale: float
    softcap: float | None

    @classmethod
    def of(cls, model: Any) -> ChosenSft | None:
        """For PEFT's wrapped model, as far as its config tells; None if its head is trained, or more than a product."""
        base = base_of(model)
        head = base.get_output_embeddings()
        if type(head) is not torch.nn.Linear or head.bias is not None or head.weight.requires_grad:
            return None
        if not hasattr(base, "get_decoder"):
            return None
        config = base.config.get_text_config()
        scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
        return cls(head.weight, float(scale), getattr(config, "final_logit_softcapping", None))

    def __call__(self, model: Any, batch: Batch, label_smoothing: float = 0.0) -> tuple[torch.Tensor, float]:
        """As `sft`."""
        return self._loss(self._states(model, batch), batch.target_ids, label_smoothing), batch.weight

    def each(self, model: Any, batch: Batch, targets: Sequence[int]) -> list[float]:
        """The summed loss of each of the batch's documents, in its order; `targets`: how many each has."""
        parts = zip(self._states(model, batch).split(targets), batch.target_ids.split(targets), strict=True)
        return [self._loss(states, ids, 0.0).item() for states, ids in parts]

    def _states(self, model: Any, batch: Batch) -> torch.Tensor:
        """`[N, hidden_size]` states that predict the targets."""
        states: torch.Tensor = model.get_decoder()(**_inputs(batch)).last_hidden_state[0]
        return states.index_select(0, batch.target_positions)

    def _loss(self, states: torch.Tensor, ids: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        from danlu.kernels.chosen_loss import chosen_loss

        return chosen_loss(states, self.head, ids, self.scale, self.softcap, label_smoothing=label_smoothing)


def _inputs(batch: Batch) -> dict[str, Any]:
    inputs = {"input_ids": batch.ids} if batch.states is None else {"inputs_embeds": batch.states}
    return {**inputs, "position_ids": batch.positions, "use_cache": False, **batch.layout}
