"""Encoder-decoder models in training: a document's source goes to the encoder, its target is the decoder's.

A document is flat, as any other: its ids are those of the source and then of the target, and the target is its one
trained span. Documents of similar length lie in one batch, one a row, and are filled up on the right: what fills up is
masked from the encoder, comes after everything that the decoder predicts, and has no loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from danlu.adapters.lora import base_of
from danlu.data.template import Document
from danlu.models.decoder_start import decoder_start
from danlu.training.halfway import input_of
from danlu.training.objectives import Batch

IGNORED = -100  # the label that Transformers and torch's cross-entropy leave out


@dataclass(frozen=True)
class SequenceBatch:
    """Documents as sources and targets. D documents, S tokens in the longest source, T in the longest target.

    Attributes:
        source_ids: `[D, S]` what the encoder reads.
        source_mask: `[D, S]` 1 for a token, 0 for what fills up.
        target_ids: `[D, T]` what is to be predicted; -100 for what fills up.
        num_tokens: tokens of the documents.
        num_targets: those to be predicted.
        counted: as in `Batch`.
    """

    source_ids: torch.Tensor
    source_mask: torch.Tensor
    target_ids: torch.Tensor
    num_tokens: int
    num_targets: int
    counted: bool = True

    @property
    def num_computed(self) -> int:
        """Tokens of the forward pass, what fills up among them."""
        return int(self.source_ids.numel() + self.target_ids.numel())

    @property
    def weight(self) -> float:
        """As in `Batch`."""
        return float(self.num_targets) if self.counted else 0.0


AnyBatch = Batch | SequenceBatch


def source_and_target(document: Document) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids of a document's two parts."""
    start = document.spans[0][0]
    return document.ids[:start], document.ids[start:]


def split_by_length(documents: Sequence[Document], max_tokens: int) -> list[list[Document]]:
    """Groups the documents of one step so that each group, filled up, has at most `max_tokens` tokens.

    Documents of similar length come together; one that is longer than the budget goes alone. Every document is in
    exactly one group. The largest group is the first, so that the others find room in what it leaves.
    """
    groups: list[list[Document]] = []
    for document in sorted(documents, key=lambda document: (len(document.ids), document.spans[0][0])):
        if groups and filled_up([*groups[-1], document]) <= max_tokens:
            groups[-1].append(document)
        else:
            groups.append([document])
    return sorted(groups, key=filled_up, reverse=True)


def filled_up(documents: Sequence[Document]) -> int:
    """Tokens of a group whose sources and targets are each as long as the longest."""
    sources, targets = zip(*map(source_and_target, documents), strict=True)
    return len(documents) * (max(map(len, sources)) + max(map(len, targets)))


def to_sequences(documents: Sequence[Document], device: torch.device) -> SequenceBatch:
    """Makes tensors of a group."""
    sources, targets = zip(*map(source_and_target, documents), strict=True)
    masks = [[1] * len(source) for source in sources]
    return SequenceBatch(
        _rectangle(sources, 0, device),
        _rectangle(masks, 0, device),
        _rectangle(targets, IGNORED, device),
        sum(len(document.ids) for document in documents),
        sum(map(len, targets)),
    )


def _rectangle(rows: Sequence[Sequence[int]], filler: int, device: torch.device) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows], device=device)


def own_loss(model: Any, batch: SequenceBatch, label_smoothing: float = 0.0) -> tuple[torch.Tensor, float]:
    """The loss of the model's own code, which shifts the targets itself: what the objectives are held against."""
    output = model(
        input_ids=batch.source_ids, attention_mask=batch.source_mask, labels=batch.target_ids, use_cache=False
    )
    return output.loss * batch.num_targets, batch.weight


@dataclass(frozen=True)
class Sequences:
    """Supervised fine-tuning of an encoder-decoder model: summed cross-entropy of the targets, in float32.

    The decoder's input is the target moved by one to the right, after the token that generation begins with too.

    Attributes:
        start: that token.
        filler: a token for what fills up; nothing that counts sees it.
    """

    start: int
    filler: int

    @classmethod
    def of(cls, model: Any) -> Sequences:
        """For a model with an encoder.

        Raises:
            ModelError: it is not known how its decoder begins.
        """
        base = base_of(model)
        start = decoder_start(base)
        assert start is not None, "the model has an encoder"
        return cls(start, base.config.pad_token_id)

    def inputs(self, batch: SequenceBatch) -> dict[str, Any]:
        """What the model is called with."""
        moved = torch.nn.functional.pad(batch.target_ids[:, :-1], (1, 0), value=self.start)
        return {
            "input_ids": batch.source_ids,
            "attention_mask": batch.source_mask,
            "decoder_input_ids": moved.masked_fill(moved == IGNORED, self.filler),
            "use_cache": False,
        }

    def __call__(self, model: Any, batch: SequenceBatch, label_smoothing: float = 0.0) -> tuple[torch.Tensor, float]:
        """See `danlu.training.objectives`."""
        logits = model(**self.inputs(batch)).logits.flatten(0, 1).float()
        loss = torch.nn.functional.cross_entropy(
            logits,
            batch.target_ids.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=label_smoothing,
        )
        return loss, batch.weight


@dataclass(frozen=True)
class ChosenSequences:
    """`Sequences` without all logits at once: the decoder's states go through the head in chunks.

    Attributes:
        sequences: gives the inputs.
        head: frozen, and no more than a product.
    """

    sequences: Sequences
    head: torch.nn.Linear

    @classmethod
    def of(cls, model: Any, sequences: Sequences) -> ChosenSequences | None:
        """None if the model's head is trained, or more than a product as far as can be seen."""
        head = base_of(model).get_output_embeddings()
        if type(head) is not torch.nn.Linear or head.bias is not None or head.weight.requires_grad:
            return None
        return cls(sequences, head)

    def __call__(self, model: Any, batch: SequenceBatch, label_smoothing: float = 0.0) -> tuple[torch.Tensor, float]:
        """As `Sequences`."""
        from danlu.kernels.chosen_loss import chosen_loss

        targets = batch.target_ids.flatten()
        places = (targets != IGNORED).nonzero().squeeze(-1)
        states = input_of(self.head, lambda: model(**self.sequences.inputs(batch))).flatten(0, 1)
        chosen, targets = states.index_select(0, places), targets.index_select(0, places)
        loss = chosen_loss(chosen, self.head.weight, targets, label_smoothing=label_smoothing)
        return loss, batch.weight
