"""Many LoRA adapters on one base, another for each row of a batch, put on and taken off while the base is in use.

In a batch of several adapters, the As of those that are in use lie below each other and so do the Bs: one product
with all As, what belongs to other rows set to zero, one product with all Bs. Each matrix is read once however many
rows share it, and a row's answer has nothing of its neighbours' adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import linear

from danlu.adapters.plain_lora import Pair, PlainLora
from danlu.errors import Fault, FolderError

_IDLE_CHOICES = 256  # so many batches later, an adapter that no row used is taken out of the stack


class _Choice:
    """Which adapter each row of the batch has; all layers read the same object.

    Attributes:
        alone: the adapter of all rows, if they have the same.
        rows: of a mixed batch, each row's place among the stacked adapters; -1 for the base.
    """

    def __init__(self) -> None:
        self.alone: str | None = None
        self.rows: torch.Tensor | None = None
        self._others: dict[tuple[tuple[int, int], ...], torch.Tensor] = {}

    def set(self, alone: str | None, rows: torch.Tensor | None = None) -> None:
        self.alone, self.rows = alone, rows
        self._others.clear()

    def others(self, widths: tuple[tuple[int, int], ...]) -> torch.Tensor:
        """`[rows, 1, width]`: where a column of the stack is not of the row's adapter.

        Args:
            widths: place and rank of each adapter in a layer's stack.
        """
        if widths not in self._others:
            assert self.rows is not None
            places = [place for place, width in widths for _ in range(width)]
            owners = torch.tensor(places, device=self.rows.device)
            self._others[widths] = (owners != self.rows.unsqueeze(1)).unsqueeze(1)
        return self._others[widths]


class BankedLinear(torch.nn.Module):  # type: ignore[misc]
    """A linear layer of the base, and the pairs of all adapters that go on it.

    Args:
        base: the layer as it was.
        choice: shared by all layers of a bank.
    """

    def __init__(self, base: torch.nn.Module, choice: _Choice) -> None:
        super().__init__()
        self.base, self.choice = base, choice
        self.pairs: dict[str, Pair] = {}
        self._downs: torch.Tensor | None = None
        self._ups: torch.Tensor | None = None
        self._widths: tuple[tuple[int, int], ...] = ()

    def stack(self, names: Sequence[str]) -> None:
        """Lays the pairs of these adapters below each other."""
        held = [(place, self.pairs[name]) for place, name in enumerate(names) if name in self.pairs]
        self._widths = tuple((place, pair.down.shape[0]) for place, pair in held)
        self._downs = torch.cat([pair.down for _, pair in held]) if held else None
        self._ups = torch.cat([pair.up for _, pair in held]) if held else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[rows, tokens, in]` to `[rows, tokens, out]`."""
        y: torch.Tensor = self.base(x)
        choice = self.choice
        if choice.alone is not None:
            pair = self.pairs.get(choice.alone)
            return y if pair is None else _add(y, linear(x, pair.down), pair.up)
        if choice.rows is None or self._downs is None or self._ups is None:
            return y
        low = linear(x, self._downs).masked_fill_(choice.others(self._widths), 0.0)
        return _add(y, low, self._ups)


def _add(y: torch.Tensor, low: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Into y, which the base's layer has just made."""
    y.view(-1, y.shape[-1]).addmm_(low.view(-1, low.shape[-1]), up)
    return y


class AdapterBank:
    """The adapters on a base. All calls come from one thread, the one that computes.

    Args:
        model: the base; its linear layers are wrapped as adapters need them, and put back by `close`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._choice = _Choice()
        self._layers: dict[str, BankedLinear] = {}
        self._adapters: dict[str, PlainLora] = {}
        self._stacked: dict[str, int] = {}  # with the number of the last choice that had it
        self._chosen: tuple[str | None, ...] = ()
        self._choices = 0

    @property
    def names(self) -> list[str]:
        """Of the adapters that are on."""
        return list(self._adapters)

    def add(self, name: str, adapter: PlainLora) -> None:
        """Puts an adapter on.

        Raises:
            FolderError: a layer is not in the base, is not linear, or has another shape.
        """
        require_fit(self.model, adapter)
        for layer_name, pair in adapter.pairs.items():
            layer = self._layers.get(layer_name)
            if layer is None:
                layer = BankedLinear(self.model.get_submodule(layer_name), self._choice)
                self._put(layer_name, layer)
                self._layers[layer_name] = layer
            layer.pairs[name] = pair
        self._adapters[name] = adapter

    def remove(self, name: str) -> None:
        """Takes an adapter off; a layer that no other is on is the base's own again."""
        self.use([])
        for layer_name in self._adapters.pop(name).pairs:
            layer = self._layers[layer_name]
            del layer.pairs[name]
            if not layer.pairs:
                self._put(layer_name, self._layers.pop(layer_name).base)
        if name in self._stacked:
            del self._stacked[name]
            self._restack()

    def use(self, rows: Sequence[str | None]) -> None:
        """Chooses the adapter of each row of the batches that follow; None is the base."""
        self._choices += 1
        chosen = tuple(rows)
        needed = set(chosen) - {None}
        for name in needed & self._stacked.keys():
            self._stacked[name] = self._choices  # type: ignore[index]
        if chosen == self._chosen:
            return
        self._chosen = chosen
        if len(set(chosen)) < 2:
            self._choice.set(chosen[0] if chosen else None)
            return
        idle = {name for name, last in self._stacked.items() if self._choices - last > _IDLE_CHOICES}
        if idle or not needed <= self._stacked.keys():
            kept = {name: last for name, last in self._stacked.items() if name not in idle}
            self._stacked = kept | dict.fromkeys(sorted(filter(None, chosen)), self._choices)
            self._restack()
        places = {name: place for place, name in enumerate(self._stacked)}
        owners = [-1 if name is None else places[name] for name in chosen]
        self._choice.set(None, torch.tensor(owners, device=self.model.device))

    def close(self) -> None:
        """Leaves the model as it was."""
        for name in self.names:
            self.remove(name)

    def _restack(self) -> None:
        for layer in self._layers.values():
            layer.stack(list(self._stacked))

    def _put(self, name: str, layer: torch.nn.Module) -> None:
        parent, _, own = name.rpartition(".")
        setattr(self.model.get_submodule(parent), own, layer)


def require_fit(model: Any, adapter: PlainLora) -> None:
    """Requires that each layer of an adapter is a linear one of the base, of the right shape.

    Raises:
        FolderError: one is not; says the first.
    """
    for name, pair in adapter.pairs.items():
        try:
            layer = model.get_submodule(name)
        except AttributeError:
            _refuse(f"{name} is not there")
        if isinstance(layer, BankedLinear):
            layer = layer.base
        found, wanted = _shape(layer), (pair.down.shape[1], pair.up.shape[1])
        if found != wanted:
            _refuse(f"{name} has (in, out) {found or 'of no linear layer'}, the adapter's {wanted}")


def _shape(layer: Any) -> tuple[int, int] | None:
    from transformers.pytorch_utils import Conv1D

    if isinstance(layer, Conv1D):
        return (layer.nx, layer.nf)
    is_linear = isinstance(layer, torch.nn.Linear)  # bitsandbytes' too
    return (layer.in_features, layer.out_features) if is_linear else None


def _refuse(what: str) -> None:
    raise FolderError(
        Fault(
            f"the adapter does not fit this base: {what}",
            allowed="an adapter that was trained on this base",
            hint="serve it with the base that it was trained on",
        )
    )
