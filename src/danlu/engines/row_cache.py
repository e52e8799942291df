"""Keys and values of many answers that grow together, one token a step; rows come and go between steps.

All rows end at the same column, as prompts that are padded on the left do: a step writes one column, whatever the
lengths, and the model makes its own masks from which columns are a row's. H heads, D numbers each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

# Keys and values `[1, H, tokens, D]` of each layer.
KeyValues = list[tuple[torch.Tensor, torch.Tensor]]
_MORE_COLUMNS = 128


def key_values_of(cache: DynamicCache) -> KeyValues:
    """What a cache of one conversation holds."""
    return [(layer.keys, layer.values) for layer in cache.layers]


def cache_of(held: KeyValues, num_tokens: int) -> DynamicCache:
    """A cache that begins with the first tokens of what is held."""
    cache = DynamicCache()
    for index, (keys, values) in enumerate(held if num_tokens else ()):
        cache.update(keys[:, :, :num_tokens], values[:, :, :num_tokens], index)
    return cache


def only_keys_and_values(cache: Any) -> bool:
    """Whether this is all that the model remembers: no state of a recurrent layer."""
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


class _RowLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's part; keys and values are `[rows that fit, H, columns that fit, D]`."""

    is_sliding = False

    def __init__(self, owner: RowCache) -> None:
        super().__init__()
        self.owner = owner

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: the first row that joins brings the shapes."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the step's column."""
        owner = self.owner
        rows, begin, end = len(owner.lengths), owner.begin, owner.end
        self.keys[:rows, :, end : end + 1] = key_states
        self.values[:rows, :, end : end + 1] = value_states
        return self.keys[:rows, :, begin : end + 1], self.values[:rows, :, begin : end + 1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns with those of this step, from 0."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Columns that are in use."""
        return self.owner.end - self.owner.begin

    def get_max_length(self) -> int:
        """No bound of its own."""
        return -1


class RowCache(Cache):  # type: ignore[misc]
    """A `transformers` cache of rows that join and leave.

    Attributes:
        lengths: tokens of each row.
        end: the column that the next step writes.
    """

    layers: list[Any]

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.lengths: list[int] = []
        self.end = 0

    @property
    def begin(self) -> int:
        """The first column that a row uses."""
        return self.end - max(self.lengths, default=0)

    def join(self, held: KeyValues) -> None:
        """Adds a row, the last one, with what its prompt left."""
        length = held[0][0].shape[2]
        if not self.lengths:
            self.end = length
        self._make_room(len(self.lengths) + 1, max([length, *self.lengths]), held)
        row = len(self.lengths)
        for layer, pair in zip(self.layers, held, strict=True):
            for own, new in zip((layer.keys, layer.values), pair, strict=True):
                own[row, :, self.end - length : self.end] = new[0]
                own[row, :, : self.end - length] = 0.0  # masked, but what is not finite would spoil a sum
        self.lengths.append(length)

    def leave(self, row: int) -> None:
        """Takes a row out; the last one takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            kept = slice(self.end - self.lengths[last], self.end)
            for layer in self.layers:
                for own in (layer.keys, layer.values):
                    own[row, :, kept] = own[last, :, kept]
                    own[row, :, : kept.start] = 0.0
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        if not self.lengths:
            self.layers.clear()  # the memory is free until there is an answer again

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the model needs for the next step: the mask `[rows, columns]`, the positions `[rows, 1]`."""
        if self.end == self.layers[0].keys.shape[2]:
            self._make_room(len(self.lengths), max(self.lengths), None)
        columns = self.end - self.begin + 1
        lengths = torch.tensor(self.lengths)
        mask = torch.arange(columns) >= (columns - 1 - lengths).unsqueeze(1)
        return mask.long(), lengths.unsqueeze(1)

    def advance(self) -> None:
        """The step's column has been written in all layers."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def row(self, row: int) -> KeyValues:
        """A copy of what a row has."""
        kept = slice(self.end - self.lengths[row], self.end)
        return [
            (layer.keys[row : row + 1, :, kept].clone(), layer.values[row : row + 1, :, kept].clone())
            for layer in self.layers
        ]

    def _make_room(self, rows: int, length: int, held: KeyValues | None) -> None:
        """Room for so many rows, `length` tokens before the end and a column after it."""
        if self.layers:
            fit_rows, _, fit_columns, _ = self.layers[0].keys.shape
            if rows <= fit_rows and length <= self.end < fit_columns:
                return
            wanted_rows = fit_rows if rows <= fit_rows else max(rows, 2 * fit_rows)
        else:
            assert held is not None
            self.layers = [_RowLayer(self) for _ in held]
            wanted_rows = rows
        used, old_end = max(self.lengths, default=0), self.end
        self.end = length
        for index, layer in enumerate(self.layers):
            pair = held[index] if held else (layer.keys, layer.values)
            for name, like in zip(("keys", "values"), pair, strict=True):
                old = getattr(layer, name)
                new = like.new_zeros(wanted_rows, like.shape[1], length + _MORE_COLUMNS, like.shape[3])
                if old is not None:
                    new[: len(self.lengths), :, length - used : length] = old[
                        : len(self.lengths), :, old_end - used : old_end
                    ]
                setattr(layer, name, new)


def num_bytes_of(held: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> int:
    """Memory of keys and values."""
    return sum(part.nbytes for pair in held for part in pair)
