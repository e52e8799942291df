"""What keeps a model from learning its rows by heart: smoothed labels, noise on embeddings, dropout, weight decay.

All of it acts in training steps alone: evaluation losses, the engine's proof and the probes see the model as it is.
What is random comes from torch's global generator: a seed gives the same bits again.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

from danlu.adapters.lora import base_of
from danlu.training.dropout import BaseDropout, drops_out
from danlu.training.objectives import Batch, Objective


@dataclass(frozen=True)
class Regularisation:
    """What a run is regularised by; weight decay is the optimizer's (see `danlu.training.optimizers`).

    Attributes:
        label_smoothing: share of each target that is spread over the vocabulary.
        noise_alpha: NEFTune's alpha; None: no noise.
        dropout: inside the base.
    """

    label_smoothing: float
    noise_alpha: float | None
    dropout: BaseDropout

    def objective(self, plain: Objective) -> Objective:
        """What a training step minimises: the plain objective with smoothed labels, under noise."""
        noisy = plain if self.noise_alpha is None else NoisyEmbeddings(plain, self.noise_alpha)
        return functools.partial(noisy, label_smoothing=self.label_smoothing) if self.label_smoothing else noisy

    def varies(self, model: Any) -> str:
        """Why a row's states are other ones each time, below any adapter too; empty if they are not."""
        dropped = self.dropout.added or drops_out(base_of(model).config)
        return " and ".join(["noise"] * (self.noise_alpha is not None) + ["dropout"] * bool(dropped))


@dataclass(frozen=True)
class NoisyEmbeddings:
    """An objective under NEFTune (arXiv 2310.05914): uniform noise on what the embedding layer gives, in training mode.

    Each token's noise is within ±alpha / √(L·hidden_size), L being the length of its own document, whatever lies beside
    it. Tokens that several documents share get one noise, as they are computed once: that of the longest document.

    Attributes:
        plain: the objective.
        alpha: 5 to 15 in the paper.
    """

    plain: Objective
    alpha: float

    def __call__(self, model: Any, batch: Batch, label_smoothing: float = 0.0) -> tuple[torch.Tensor, float]:
        """As the objective."""
        embeddings = model.get_input_embeddings()
        hook = embeddings.register_forward_hook(functools.partial(self._add_noise, batch))
        try:
            return self.plain(model, batch, label_smoothing)
        finally:
            hook.remove()

    def _add_noise(self, batch: Batch, module: Any, _given: Any, embedded: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return embedded
        lengths = document_lengths(batch)
        bounds = torch.where(lengths > 0, self.alpha / (lengths * embedded.shape[-1]).sqrt(), 0.0)
        return embedded + torch.empty_like(embedded).uniform_(-1, 1) * bounds[:, None].to(embedded.dtype)


def document_lengths(batch: Batch) -> torch.Tensor:
    """`[T]` length of each token's document; the longest one's for tokens that are shared, 0 for what fills up."""
    positions = batch.positions[0]
    if not batch.layout:
        documents = (positions == 0).cumsum(0) - 1
        return documents.bincount()[documents]
    gather = batch.layout["gather"]
    rows = gather.split([length for documents, length in batch.layout["grids"] for _ in range(documents)])
    of_places = [(positions[row[-1:]] + 1).expand_as(row) for row in rows]  # a row is filled up by its last token
    return torch.zeros_like(positions).scatter_reduce(0, gather, torch.cat(of_places), "amax")
