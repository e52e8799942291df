"""The base's own biases while the adapter is switched off: PEFT would leave trained ones in place, and only warn."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

OwnBiases = list[tuple[torch.nn.Parameter, torch.Tensor]]


def own_biases(model: Any) -> OwnBiases:
    """Every bias of a base, and a copy of its values before anything is trained or loaded."""
    named = model.named_parameters()
    return [(bias, bias.detach().clone()) for name, bias in named if name.rsplit(".", 1)[-1] == "bias"]


def answer_as_base(tuned: Any, biases: OwnBiases) -> None:
    """Makes `tuned.disable_adapter()` give the base's answers although its biases are trained.

    Args:
        tuned: PEFT's wrapped model.
        biases: from `own_biases`, of its base.
    """
    tuned.disable_adapter = functools.partial(_disabled, tuned.disable_adapter, biases)


@contextlib.contextmanager
def _disabled(disable: Callable[[], contextlib.AbstractContextManager[None]], biases: OwnBiases) -> Iterator[None]:
    with contextlib.ExitStack() as entered:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Careful, disabling adapter layers with bias")
            entered.enter_context(disable())
        trained = [bias.data for bias, _ in biases]
        try:
            for bias, own in biases:
                bias.data = own.to(bias)
            yield
        finally:
            for (bias, _), data in zip(biases, trained, strict=True):
                bias.data = data
