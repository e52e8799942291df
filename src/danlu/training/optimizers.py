"""AdamW (arXiv 1711.05101) of PyTorch, or with 8-bit or paged moments of bitsandbytes; LoRA+'s two rates."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from danlu.errors import Fault, RecipeError

Groups = list[dict[str, Any]]

# bitsandbytes' class by the recipe's name, and whether its moments are paged.
_BITSANDBYTES = {
    "adamw_8bit": ("AdamW8bit", False),
    "paged_adamw": ("AdamW32bit", True),
    "paged_adamw_8bit": ("AdamW8bit", True),
}


def require_optimizer(name: str) -> None:
    """Requires what an optimizer needs to be installed.

    Raises:
        RecipeError: bitsandbytes is not.
    """
    if name in _BITSANDBYTES and importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError(
            Fault(
                f"{name} needs bitsandbytes, which is not installed",
                "training.optimizer",
                "adamw, without it",
                "pip install 'danlu[quantization]'",
            )
        )


def make_optimizer(
    model: Any,
    name: str,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    loraplus_lr_ratio: float | None = None,
) -> Any:
    """An optimizer over the trained parameters of a model; those in 16 bits are updated in float32.

    Each parameter group has its `lr_ratio`, by which the learning rate of a step is multiplied.

    Args:
        model: what is trained.
        name: `adamw`, `adamw_8bit`, `paged_adamw` or `paged_adamw_8bit`. 8-bit moments are those of tensors with 4096
            values or more; paged moments move to the host's memory when a GPU's is full, and are like others without.
        learning_rate: of the first step.
        betas: decay of the two moments.
        weight_decay: decoupled; biases and norms are not decayed.
        loraplus_lr_ratio: rate of LoRA's B, and of vectors, over that of A (LoRA+, arXiv 2402.12354); None: the same.

    Returns:
        PyTorch's optimizer, or what looks like one.

    Raises:
        RecipeError: bitsandbytes is not installed.
    """
    require_optimizer(name)
    groups = _groups(model, learning_rate, weight_decay, loraplus_lr_ratio or 1.0)

    def make(groups: Groups) -> Any:
        if name == "adamw":
            return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
        import bitsandbytes.optim

        kind, paged = _BITSANDBYTES[name]
        paged = paged and groups[0]["params"][0].device.type != "cpu"
        return getattr(bitsandbytes.optim, kind)(groups, lr=learning_rate, betas=betas, is_paged=paged)

    if all(parameter.dtype == torch.float32 for group in groups for parameter in group["params"]):
        return make(groups)
    return Float32Updates(groups, make)


def _groups(model: Any, learning_rate: float, weight_decay: float, ratio: float) -> Groups:
    """Trained parameters by their rate and decay, no group empty."""
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    own = getattr(getattr(model, "base_model", None), "prefix", None)  # of the adapter's names, in PEFT's model
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            vector = parameter.ndim == 1
            faster = ratio if vector or "lora_B" in name else 1.0
            decay = 0.0 if vector and not (own and own in name) else weight_decay
            groups.setdefault((faster, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": learning_rate * faster, "lr_ratio": faster, "weight_decay": decay}
        for (faster, decay), parameters in groups.items()
    ]


class Float32Updates:
    """An optimizer whose 16-bit parameters are rounded from float32 copies after each step.

    A step of 1e-4 on a value of 1 is lost in bfloat16, which has 8 bits; here it adds up.

    Args:
        groups: parameter groups.
        make: makes the optimizer of such groups.
    """

    def __init__(self, groups: Groups, make: Callable[[Groups], Any]) -> None:
        self._pairs: list[tuple[torch.nn.Parameter, torch.nn.Parameter]] = []
        self._optimizer = make(
            [{**group, "params": [self._updated(one) for one in group["params"]]} for group in groups]
        )

    def _updated(self, parameter: torch.nn.Parameter) -> torch.nn.Parameter:
        """What the optimizer updates for a parameter."""
        if parameter.dtype == torch.float32:
            return parameter
        self._pairs.append((parameter, torch.nn.Parameter(parameter.detach().float())))
        return self._pairs[-1][1]

    @property
    def param_groups(self) -> Groups:
        """The optimizer's; their `params` are what is updated in float32."""
        groups: Groups = self._optimizer.param_groups
        return groups

    def step(self) -> None:
        """One step, in float32."""
        for parameter, copy in self._pairs:
            copy.grad = None if parameter.grad is None else parameter.grad.float()
        self._optimizer.step()
        self._round()

    def _round(self) -> None:
        with torch.no_grad():
            for parameter, copy in self._pairs:
                parameter.copy_(copy)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients."""
        self._optimizer.zero_grad(set_to_none)
        for parameter, _ in self._pairs:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, and under `float32` the copies."""
        return {**self._optimizer.state_dict(), "float32": [copy.detach() for _, copy in self._pairs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state up again; the parameters are those of its copies, rounded."""
        self._optimizer.load_state_dict({key: value for key, value in state.items() if key != "float32"})
        for (_, copy), value in zip(self._pairs, state["float32"], strict=True):
            copy.data.copy_(value)
        self._round()
