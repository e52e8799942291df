"""AdamW (arXiv 1711.05101) of PyTorch, or with 8-bit or paged moments of bitsandbytes; LoRA+'s two rates."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch

from danlu.errors import Fault, RecipeError

# bitsandbytes' class by the recipe's name, and whether its moments are paged.
_BITSANDBYTES = {
    "adamw_8bit": ("AdamW8bit", False),
    "paged_adamw": ("AdamW32bit", True),
    "paged_adamw_8bit": ("AdamW8bit", True),
}


def require_optimizer(name: str, shards_moments: bool) -> None:
    """Requires what an optimizer needs: bitsandbytes, and moments that are whole.

    Args:
        name: as for `make_optimizer`.
        shards_moments: whether the backend keeps moments in shards.

    Raises:
        RecipeError: something is missing.
    """
    key = "training.optimizer"
    if name in _BITSANDBYTES and importlib.util.find_spec("bitsandbytes") is None:
        what = f"{name} needs bitsandbytes, which is not installed"
        raise RecipeError(Fault(what, key, "adamw, without it", "pip install 'danlu[quantization]'"))
    if name in _BITSANDBYTES and shards_moments:
        what = f"{name} can't keep its moments in shards"
        raise RecipeError(Fault(what, key, "adamw", "set training.optimizer=adamw, or training.backend={type: ddp}"))


def make_optimizer(
    trained: Mapping[str, torch.nn.Parameter],
    name: str,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    loraplus_lr_ratio: float | None = None,
) -> torch.optim.Optimizer:
    """An optimizer whose parameter groups have their `lr_ratio`, by which a step's learning rate is multiplied.

    Args:
        trained: parameters by name.
        name: `adamw`, `adamw_8bit`, `paged_adamw` or `paged_adamw_8bit`. 8-bit moments are those of tensors with 4096
            values or more; paged moments move to the host's memory when a GPU's is full, and are like others without.
        learning_rate: of the first step.
        betas: decay of the two moments.
        weight_decay: decoupled; see `decay_groups`.
        loraplus_lr_ratio: rate of LoRA's B, and of vectors, over that of A (LoRA+, arXiv 2402.12354); None: the same.
    """
    groups = _groups(trained, learning_rate, weight_decay, loraplus_lr_ratio or 1.0)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
    import bitsandbytes.optim

    kind, paged = _BITSANDBYTES[name]
    paged = paged and groups[0]["params"][0].device.type != "cpu"
    optimizer: torch.optim.Optimizer = getattr(bitsandbytes.optim, kind)(
        groups, lr=learning_rate, betas=betas, is_paged=paged
    )
    return optimizer


def _groups(
    trained: Mapping[str, torch.nn.Parameter], learning_rate: float, weight_decay: float, ratio: float
) -> list[dict[str, Any]]:
    """Trained parameters by their rate and decay, no group empty."""
    by_ratio: dict[float, dict[str, torch.nn.Parameter]] = {}
    for name, parameter in trained.items():
        faster = parameter.dim() <= 1 or "lora_B" in name
        by_ratio.setdefault(ratio if faster else 1.0, {})[name] = parameter
    return [
        {**group, "lr": learning_rate * faster, "lr_ratio": faster}
        for faster, named in by_ratio.items()
        for group in decay_groups(named, weight_decay)
    ]


def decay_groups(trained: Mapping[str, torch.nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Trained parameters as an optimizer's groups: matrices decay; biases, norms and other vectors do not.

    Args:
        trained: by name; with LoRA, the matrices A and B, and what decays is the update, towards the base. (IA)³ has
            factors, whose rest is 1.
        weight_decay: of AdamW (arXiv 1711.05101): each step first takes rate · weight_decay of a weight away.
    """
    vectors = [parameter for name, parameter in trained.items() if parameter.dim() <= 1 or "ia3_l" in name]
    matrices = [parameter for name, parameter in trained.items() if parameter.dim() > 1 and "ia3_l" not in name]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
