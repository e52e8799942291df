"""Tensors that a backward pass makes again, to the bit, from what another one keeps anyway."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

_ATTRIBUTE = "_danlu_making"


class Making(NamedTuple):
    """How a tensor was made.

    Attributes:
        make: gives it from the sources.
        sources: kept by the backward pass of what made it.
        version: of the tensor when it was made.
    """

    make: Callable[..., torch.Tensor]
    sources: tuple[torch.Tensor, ...]
    version: int


def note_making(tensor: torch.Tensor, make: Callable[..., torch.Tensor], *sources: torch.Tensor) -> torch.Tensor:
    """Notes on a tensor how it was made, where a backward pass may follow; gives the tensor."""
    if tensor.requires_grad:
        setattr(tensor, _ATTRIBUTE, Making(make, tuple(source.detach() for source in sources), tensor._version))
    return tensor


def making_of(tensor: torch.Tensor) -> Making | None:
    """How this very tensor was made; None if nobody noted it, or it was changed since."""
    making: Making | None = getattr(tensor, _ATTRIBUTE, None)
    return making if making is not None and making.version == tensor._version else None
