"""A LoRA adapter read from PEFT's files as plain pairs of matrices, without PEFT and without its model.

Each layer's update is x·Aᵀ·(s·B)ᵀ, with s = alpha / rank or alpha / √rank (arXiv 2106.09685, 2312.03732).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danlu.adapters.lora import check_adapter_folder
from danlu.errors import Fault, FolderError

_PREFIX = "base_model.model."
# What PEFT's LoRA can have beside plain pairs; each would be left out without a word.
_MORE = (
    *("use_dora", "lora_bias", "use_qalora", "modules_to_save", "layer_replication", "alora_invocation_tokens"),
    *("trainable_token_indices", "target_parameters", "velora_config", "arrow_config", "use_bdlora"),
)
# Starts that change the base as well: such an adapter fits the changed base alone.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq")


@dataclass(frozen=True)
class Pair:
    """One layer's update.

    Attributes:
        down: A, `[rank, in]`.
        up: (s·B)ᵀ, `[rank, out]`.
    """

    down: torch.Tensor
    up: torch.Tensor


@dataclass(frozen=True)
class PlainLora:
    """One adapter: a pair for each layer that it goes on, by the layer's full name in the base."""

    pairs: Mapping[str, Pair]

    @property
    def rank(self) -> int:
        """The largest of its ranks."""
        return max(int(pair.down.shape[0]) for pair in self.pairs.values())

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        return sum(part.nbytes for pair in self.pairs.values() for part in (pair.down, pair.up))


def read_plain_lora(folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> PlainLora:
    """Reads an adapter folder.

    Args:
        folder: in PEFT's format, safetensors.
        dtype: to keep the matrices in; s·B is computed in float32.
        device: to keep them on.

    Raises:
        FolderError: a file is missing or broken, a value is not finite, or the adapter is more than plain LoRA.
    """
    tensors = check_adapter_folder(folder)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    _require_plain(config, folder)
    _require_pairs(tensors, folder)
    pairs = {}
    for key in tensors:
        if key.endswith(".lora_A.weight"):
            name = key.removesuffix(".lora_A.weight")
            down, up = tensors[key].float(), tensors[f"{name}.lora_B.weight"].float()
            name = name.removeprefix(_PREFIX)
            scaled = (up * _scaling(config, name, down.shape[0])).t().contiguous()
            pairs[name] = Pair(down.to(device, dtype), scaled.to(device, dtype))
    return PlainLora(pairs)


def _scaling(config: dict[str, Any], name: str, rank: int) -> float:
    from peft.utils.other import get_pattern_key

    patterns: dict[str, float] = config.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(list(patterns), name), config["lora_alpha"])
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _require_plain(config: dict[str, Any], folder: Path) -> None:
    more = [name for name in _MORE if config.get(name)]
    if config.get("peft_type") != "LORA":
        more = [str(config.get("peft_type"))]
    if config.get("bias", "none") != "none":
        more.append("bias")
    if str(config.get("init_lora_weights")).startswith(_CHANGES_BASE):
        more.append(f"init_lora_weights={config['init_lora_weights']}")
    _refuse(more, folder)


def _require_pairs(tensors: Iterable[str], folder: Path) -> None:
    names = set(tensors)
    ends = {"A": ".lora_A.weight", "B": ".lora_B.weight"}
    sides = {side: {name.removesuffix(end) for name in names if name.endswith(end)} for side, end in ends.items()}
    odd = {name for name in names if not name.endswith(tuple(ends.values()))} | (sides["A"] ^ sides["B"])
    _refuse(sorted(odd)[:1] or ([] if names else ["nothing"]), folder)


def _refuse(more: list[str], folder: Path) -> None:
    if more:
        raise FolderError(
            Fault(
                f"the adapter has what can't share a batch with other adapters: {', '.join(more)}",
                str(folder),
                "LoRA of any rank, alpha and target modules, rsLoRA too",
                "export the run with `danlu export RUN --to merged`, and serve the export by --base",
            )
        )
