"""Who owns backward, the optimizer step and gradients: here a single process; others share its three calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch


class Backend(Protocol):
    """The three things that differ between one process and many."""

    def backward(self, loss_sum: torch.Tensor) -> None:
        """Adds the gradients of a summed loss."""
        ...

    def step(self, weight: float, max_norm: float | None) -> float:
        """Divides the gradients by the total weight, clips, updates, clears; returns the norm before clipping."""
        ...

    def set_learning_rate(self, rate: float) -> None:
        """Sets the rate of the next update."""
        ...


class SingleProcess:
    """One process, one device."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.optimizer = optimizer

    def backward(self, loss_sum: torch.Tensor) -> None:
        """Adds the gradients of a summed loss."""
        loss_sum.backward()

    def step(self, weight: float, max_norm: float | None) -> float:
        """Divides the gradients by the total weight, clips, updates, clears; returns the norm before clipping."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        torch._foreach_div_(gradients, weight)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, max_norm if max_norm else float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def set_learning_rate(self, rate: float) -> None:
        """Sets the rate of the next update."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_ratio", 1.0)
