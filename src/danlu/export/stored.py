"""The tensors of a model folder as they are stored, and the parameters of the model that they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danlu.errors import Fault, ModelError
from danlu.models.folder import weight_files


@dataclass(frozen=True)
class Stored:
    """One tensor in a safetensors file.

    Attributes:
        name: in the file.
        path: of the file.
        shape: of the tensor.
        dtype: as safetensors writes it, such as `BF16`.
        parameter: full name in the Transformers model; empty where the model has no such parameter.
        whole: whether it is that parameter as it is, not a part of it or a rearrangement.
    """

    name: str
    path: Path
    shape: tuple[int, ...]
    dtype: str
    parameter: str = ""
    whole: bool = True

    @property
    def numbers(self) -> int:
        """How many numbers it has."""
        return int(torch.Size(self.shape).numel())

    @property
    def is_floating(self) -> bool:
        """Whether its numbers are such as are rounded."""
        return self.dtype in ("F64", "F32", "F16", "BF16")

    def read(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The tensor in a dtype or in its own, in memory of its own: what is mapped of the file is given back."""
        from safetensors import safe_open

        with safe_open(self.path, "pt") as stream:
            tensor: torch.Tensor = stream.get_tensor(self.name)
            return tensor.to(dtype or tensor.dtype, copy=True)


def stored_tensors(folder: Path) -> Iterator[Stored]:
    """All tensors of a folder in the order of its files and of their names, by the files' headers alone."""
    from safetensors import safe_open

    for path in weight_files(folder):
        with safe_open(path, "pt") as stream:
            for name in sorted(stream.keys(), key=_natural):
                part = stream.get_slice(name)
                yield Stored(name, path, tuple(part.get_shape()), part.get_dtype())


def placed(tensors: Iterator[Stored], model: Any) -> list[Stored]:
    """Says of stored tensors which of the model's parameters they are, as Transformers does when it loads them.

    Args:
        tensors: of a model folder.
        model: Transformers' own, with or without weights.

    Raises:
        ModelError: a parameter of the model is in none of them.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    conversions = get_model_conversion_mapping(model)
    renamings = [one for one in conversions if isinstance(one, WeightRenaming)]
    converters = [one for one in conversions if isinstance(one, WeightConverter)]
    state, prefix = model.state_dict(), model.base_model_prefix
    found = []
    for one in tensors:
        name, pattern = rename_source_key(one.name, renamings, converters, prefix, state)
        if name not in state and one.name in state:
            name, pattern = rename_source_key(one.name, [], [], prefix, state)
        known = name if name in state else ""
        found.append(Stored(one.name, one.path, one.shape, one.dtype, known, pattern is None))
    _require_all(found, model)
    return found


def _require_all(found: list[Stored], model: Any) -> None:
    """Requires every parameter, where none is made of several tensors; one matrix may be stored once."""
    if not all(one.whole for one in found):
        return
    known = {one.parameter for one in found}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    held = {id(parameters[name]) for name in known if name in parameters}
    missing = sorted(name for name, tensor in parameters.items() if name not in known and id(tensor) not in held)
    if missing:
        raise ModelError(
            Fault(
                f"{len(missing)} tensors are missing from the weights, first {missing[0]}",
                str(found[0].path.parent) if found else "",
                hint="the files and config.json do not belong together: fetch the model again",
            )
        )


def loaded_dtypes(model: Any, dtype: torch.dtype) -> Mapping[str, torch.dtype]:
    """In which dtype Transformers keeps each parameter of a model that is loaded in `dtype`.

    Args:
        model: made in `dtype`, with or without weights.
        dtype: asked for.
    """
    kept = model._get_dtype_plan(dtype)  # parts of names that stay in float32
    patterns = [(re.compile(part.replace("*", ".*")), wide) for part, wide in kept.items()]
    return {
        name: next((wide for pattern, wide in patterns if pattern.search(name)), tensor.dtype)
        for name, tensor in model.state_dict().items()
    }


def _natural(name: str) -> list[tuple[int, str]]:
    """For an order in which layer 10 comes after layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
