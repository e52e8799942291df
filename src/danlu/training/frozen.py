"""Layers below the first trained one never change: their output is computed once per document and kept.

If an adapter leaves the lowest k layers alone (`adapter.layers_to_transform`) and nothing is dropped out there, the
states that enter layer k are the same in every epoch. They are kept in memory, by document, and later epochs start
at layer k. This is exact; it is proven on a real pack before it is used, and left out where it would not fit.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import psutil
import torch

from danlu.adapters.lora import base_of
from danlu.data.packing import Pack, pack, shared_prefix
from danlu.data.store import Store
from danlu.data.template import Document
from danlu.training.dropout import drops_out
from danlu.training.halfway import input_of
from danlu.training.objectives import Batch, Objective, to_batch

_MEMORY_SHARE = 0.1
_LAYER = re.compile(r"\.layers\.(\d+)\.")


class FrozenLayers:
    """A model seen from its first trained layer up.

    Args:
        model: PEFT's wrapped model.
        first: index k of the first trained layer, at least 1.
    """

    def __init__(self, model: Any, first: int) -> None:
        self.model, self.first = model, first
        self._decoder = base_of(model).get_decoder()
        self._layers: torch.nn.ModuleList = self._decoder.layers
        self._kept: dict[tuple[int, ...], torch.Tensor] = {}

    def __call__(self, **inputs: Any) -> Any:
        """The model's forward pass from layer k, given the states that enter it as `inputs_embeds`."""
        with self._only(self._layers[self.first :]):
            return self.model(**inputs)

    def get_decoder(self) -> Any:
        """The decoder from layer k up, for the same input."""

        def run(**inputs: Any) -> Any:
            with self._only(self._layers[self.first :]):
                return self._decoder(**inputs)

        return run

    def train(self) -> None:
        """Training mode."""
        self.model.train()

    def eval(self) -> None:
        """Evaluation mode."""
        self.model.eval()

    def forget(self) -> None:
        """Lets go of all that was computed; it is computed again when it is needed."""
        self._kept.clear()

    def states(self, documents: Sequence[Document], packed: Pack, batch: Batch) -> torch.Tensor:
        """The states that enter layer k for a pack of these documents, and zeros where the batch is filled up.

        Returns:
            `[1, T, hidden_size]`; computed if a document is new, else put together from what was kept.
        """
        prefix = shared_prefix(documents) if packed.gather else 0
        if any(document.ids not in self._kept for document in documents):
            states = self._compute(batch)
            self._keep(documents, prefix, states)
            return states
        kept = [self._kept[document.ids] for document in documents]
        filled = kept[0].new_zeros(batch.ids.shape[1] - len(packed.ids), kept[0].shape[1])
        return torch.cat([kept[0][:prefix], *(states[prefix:] for states in kept), filled]).unsqueeze(0)

    def _compute(self, batch: Batch) -> torch.Tensor:
        inputs = {"input_ids": batch.ids, "position_ids": batch.positions, "use_cache": False, **batch.layout}
        with torch.no_grad():
            return input_of(self._layers[self.first], lambda: self._decoder(**inputs)).detach()

    def _keep(self, documents: Sequence[Document], prefix: int, states: torch.Tensor) -> None:
        offset = prefix
        for document in documents:
            length = len(document.ids) - prefix
            own = states[0, offset : offset + length]
            self._kept[document.ids] = torch.cat([states[0, :prefix], own])
            offset += length

    @contextlib.contextmanager
    def _only(self, layers: torch.nn.ModuleList) -> Iterator[None]:
        self._decoder.layers = layers
        try:
            yield
        finally:
            self._decoder.layers = self._layers


def first_trained_layer(model: Any) -> int:
    """Index of the lowest layer with a trained parameter; 0 if something outside the layers is trained."""
    layers = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found = _LAYER.search(name)
            layers.append(int(found.group(1)) if found else 0)
    return min(layers, default=0)


def choose_frozen(model: Any, stores: Sequence[Store], objective: Objective, share_prefix: bool) -> FrozenLayers | None:
    """The model from its first trained layer up, if there is anything below it, it fits, and it gives the same loss.

    Args:
        model: PEFT's wrapped model, attending as it will in training.
        stores: all documents whose states would be kept.
        objective: the loss of the training.
        share_prefix: as in training.
    """
    base = base_of(model)
    if base.config.is_encoder_decoder:
        return None  # its layers are counted twice
    first = first_trained_layer(model)
    config = base.config.get_text_config()
    mixed = len(set(getattr(config, "layer_types", None) or [""])) > 1  # masks are chosen by the layer's index
    if first == 0 or drops_out(config) or mixed or not hasattr(base.get_decoder(), "layers"):
        return None
    needed = sum(store.num_tokens for store in stores) * config.hidden_size * base.dtype.itemsize
    if needed > _MEMORY_SHARE * psutil.virtual_memory().available:
        return None
    frozen = FrozenLayers(model, first)
    return frozen if _same_loss(frozen, stores[0], objective, share_prefix) else None


def _same_loss(frozen: FrozenLayers, store: Store, objective: Objective, share_prefix: bool) -> bool:
    """Whether one real pack has the loss of the whole model, by states just computed and by states kept."""
    documents = [store[index] for index in range(min(3, len(store)))]
    packed = pack(documents, share_prefix)
    batch = to_batch(packed, next(frozen.model.parameters()).device)
    with torch.no_grad():
        whole = float(objective(frozen.model, batch)[0])
        for _ in range(2):
            states = frozen.states(documents, packed, batch)
            if not abs(float(objective(frozen, replace(batch, states=states))[0]) - whole) <= 1e-4 * max(
                1.0, abs(whole)
            ):
                return False
    return True
