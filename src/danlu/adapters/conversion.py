"""Adapters that started from a part of the base's weights, told as plain LoRA of twice the rank.

W - s·B₀·A₀ + s·B·A = W + s·[B, -B₀]·[A; A₀] (PEFT's `subtract_mutated_init`), so any PEFT loads them on the base as it
is. PEFT's own way there drops trained biases and modules, and can't do it with rsLoRA and patterns together.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from danlu.adapters.linear import FusedLinear


@contextlib.contextmanager
def told_as_lora(model: Any, whole: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """The state dict of PEFT's wrapped model to be saved, and meanwhile the config that belongs to it.

    Where nothing started from the weights, both are the model's own.

    Args:
        model: PEFT's wrapped model.
        whole: trained tensors by name that count in place of the model's.
    """
    name = model.active_adapter
    config, state = model.peft_config[name], {**model.state_dict(), **whole}
    started = {
        path: layer.start
        for path, layer in model.named_modules()
        if isinstance(layer, FusedLinear) and layer.start is not None
    }
    for path, (down, up) in started.items():
        first, second = f"{path}.lora_A.{name}.weight", f"{path}.lora_B.{name}.weight"
        state[first] = torch.cat([state[first], down.to(state[first])])
        state[second] = torch.cat([state[second], -up.to(state[second])], 1)
    if started:
        model.peft_config[name] = _doubled(config)
    try:
        yield state
    finally:
        model.peft_config[name] = config


def _doubled(config: Any) -> Any:
    """The same scale s at twice the rank: s = alpha / rank, or alpha / √rank with rsLoRA."""
    factor = 2**0.5 if config.use_rslora else 2
    return dataclasses.replace(
        config,
        r=2 * config.r,
        lora_alpha=factor * config.lora_alpha,
        rank_pattern=_times(2, config.rank_pattern),
        alpha_pattern=_times(factor, config.alpha_pattern),
        init_lora_weights=True,
    )


def _times(factor: float, pattern: Mapping[str, float]) -> dict[str, float]:
    return {name: factor * value for name, value in pattern.items()}
