"""The tensors of base + adapter, made one layer at a time from the files of both.

Each is what PEFT's own layer says: the model stands without weights, its adapter has its own, and one layer after
another is given the base's weights, merged by PEFT in float32 and emptied again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danlu.adapters.lora import load_adapter
from danlu.adapters.targets import skeleton
from danlu.errors import Fault, FolderError
from danlu.export.stored import Stored, loaded_dtypes, placed, stored_tensors
from danlu.models.loading import choose_device
from danlu.models.quantization import in_fewer_bits, quantized_names
from danlu.recipe.model_schema import Quantization


@dataclass(frozen=True)
class Source:
    """Where the tensors of a tuned model come from.

    Attributes:
        base: the base's folder.
        dtype: in which the base was loaded when it was trained on.
        quantization: in which its linear layers were kept.
        adapter: folder of the adapter; None: the base's tensors are those that were trained.
    """

    base: Path
    dtype: torch.dtype
    quantization: Quantization | None = None
    adapter: Path | None = None


@dataclass(frozen=True)
class Made:
    """A tensor of the tuned model.

    Attributes:
        stored: the base's, under whose name it is written.
        base: what it was in training.
        tuned: what it is with the adapter; the same object where the adapter leaves it as it is.
    """

    stored: Stored
    base: torch.Tensor
    tuned: torch.Tensor


class TunedTensors:
    """Base + adapter, tensor by tensor.

    Args:
        source: what to make them from.

    Attributes:
        model: the tuned model without the base's weights.
        tied: names of parameters that are one matrix, a set for each.
        stored: the base's tensors that are in the model, in the order in which they are made.

    Raises:
        FolderError: the adapter is broken, or is one for another base.
        ModelError: tensors are missing from the base.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._quantized = set[str]()
        if source.quantization:
            self._quantized.update(quantized_names(skeleton(source.base), source.quantization))
        model = skeleton(source.base, dtype=source.dtype)
        self._dtypes = loaded_dtypes(model, source.dtype)
        found = [one for one in placed(stored_tensors(source.base), model) if one.parameter]
        empty = _without_storage(model)
        self.tied = _tied_names(model)
        self.model = model if source.adapter is None else load_adapter(model, source.adapter, assign=True)
        inner = model if source.adapter is None else self.model.get_base_model()
        self._adapted = {name: layer for name, layer in inner.named_modules() if _can_merge(layer)}
        self._trained = dict(_trained_whole(inner, self._adapted, empty))
        self.stored = self._grouped(found)

    @property
    def in_parts(self) -> list[str]:
        """Parameters that were trained or quantised and are not stored as they are: these can't be made so."""
        return sorted(
            one.parameter
            for one in self.stored
            if not one.whole and (self._layer(one) or one.parameter in self._trained or self._is_quantized(one))
        )

    def __iter__(self) -> Iterator[Made]:
        for group in _runs(self.stored, self._layer):
            layer = self._layer(group[0])
            yield from (self._merged(layer, group) if layer else map(self._alone, group))

    def _grouped(self, found: list[Stored]) -> list[Stored]:
        """Weight and bias of an adapted layer one after the other, wherever the base's files have them."""
        first: dict[str, int] = {}
        keys = [self._layer(one) or one.name for one in found]
        for place, key in enumerate(keys):
            first.setdefault(key, place)
        order = sorted(range(len(found)), key=lambda place: (first[keys[place]], place))
        return [found[place] for place in order]

    def _layer(self, one: Stored) -> str:
        """Name of the adapted layer that a tensor is of; empty if it is of none."""
        name = one.parameter.rpartition(".")[0]
        return name if name in self._adapted else ""

    def _is_quantized(self, one: Stored) -> bool:
        name, _, last = one.parameter.rpartition(".")
        return last == "weight" and name in self._quantized

    def _read(self, one: Stored) -> torch.Tensor:
        """A tensor of the base as it was in training, in the dtype that it was loaded in, or in float32."""
        if not one.is_floating:
            return one.read()
        tensor = one.read(self._dtypes[one.parameter])
        if not self._is_quantized(one):
            return tensor
        assert self._source.quantization is not None
        across = _is_transposed(self.model.get_submodule(self._path(one)))
        rows = (tensor.t() if across else tensor).to(choose_device())
        made = in_fewer_bits(rows.contiguous(), self._source.quantization).cpu()
        return made.t().contiguous() if across else made

    def _path(self, one: Stored) -> str:
        inside = "" if self._source.adapter is None else "base_model.model."
        return inside + one.parameter.rpartition(".")[0]

    def _alone(self, one: Stored) -> Made:
        base = self._read(one)
        trained = self._trained.get(one.parameter)
        return Made(one, base, base if trained is None else trained.to(torch.float32))

    def _merged(self, name: str, group: list[Stored]) -> Iterator[Made]:
        """The tensors of one adapted layer."""
        layer = self._adapted[name]
        inner = layer.get_base_layer()
        bases = {one: self._read(one).float() for one in group}
        empty = dict(inner.named_parameters(recurse=False))
        try:
            for one, base in bases.items():
                last = one.parameter.rpartition(".")[2]
                trained = self._trained.get(one.parameter)
                value = base.clone() if trained is None else trained.float()
                setattr(inner, last, torch.nn.Parameter(value, requires_grad=False))
            layer.merge()
            tuned = {one: getattr(inner, one.parameter.rpartition(".")[2]).data for one in group}
        except (RuntimeError, ValueError, NotImplementedError, AttributeError) as error:
            what = f"the adapter can't be merged into {name}: {(str(error) or type(error).__name__).splitlines()[0]}"
            where = str(self._source.adapter)
            hint = "serve it as an adapter beside its base"
            raise FolderError(Fault(what, where, "an adapter that adds to weights, as LoRA does", hint)) from error
        finally:
            layer.merged_adapters.clear()
            for last, parameter in empty.items():
                setattr(inner, last, parameter)
        for one in group:
            if not torch.isfinite(tuned[one]).all():
                what = f"{one.name} is not finite once it is merged"
                raise FolderError(Fault(what, str(self._source.adapter), hint="use an earlier checkpoint"))
            yield Made(one, bases.pop(one), tuned.pop(one))


def _without_storage(model: Any) -> dict[int, torch.nn.Parameter]:
    """Gives a model on the meta device parameters that are one zero, repeated.

    PEFT puts an adapter where its base is and in the base's dtype; on the meta device it would have no values.

    Returns:
        These parameters, by id.
    """
    empty: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in empty:
                repeated = torch.zeros((), dtype=torch.float32).expand(parameter.shape)
                empty[id(parameter)] = torch.nn.Parameter(repeated, requires_grad=False)
            setattr(module, name, empty[id(parameter)])
    return {id(parameter): parameter for parameter in empty.values()}


def _tied_names(model: Any) -> list[set[str]]:
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return [those for those in names.values() if len(those) > 1]


def _can_merge(module: Any) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


def _is_transposed(module: Any) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module.get_base_layer() if _can_merge(module) else module, Conv1D)


def _trained_whole(
    model: Any, adapted: Mapping[str, Any], empty: Mapping[int, Any]
) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Parameters of the base that were trained as they are, by their name there: they alone have values."""
    from peft.utils.other import ModulesToSaveWrapper

    saved_whole = [name for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    inside = tuple(f"{name}." for name in (*adapted, *saved_whole))
    for name, module in model.named_modules():
        if name in saved_whole:
            saved = module.modules_to_save[module.active_adapters[0]]
            yield from ((f"{name}.{last}", tensor) for last, tensor in saved.named_parameters())
        elif name in adapted:
            own = module.get_base_layer().named_parameters(recurse=False)
            yield from ((f"{name}.{last}", tensor) for last, tensor in own if id(tensor) not in empty)
        elif not f"{name}.".startswith(inside):
            own = module.named_parameters(name, recurse=False)
            yield from ((full, tensor) for full, tensor in own if id(tensor) not in empty)


def _runs(stored: list[Stored], key: Any) -> Iterator[list[Stored]]:
    """Tensors of one adapted layer together, all others alone."""
    group: list[Stored] = []
    for one in stored:
        if group and not (key(one) and key(one) == key(group[-1])):
            yield group
            group = []
        group.append(one)
    if group:
        yield group
