"""Who owns backward, the optimizer step and the trained state: the things that differ between one process and many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch


@dataclass
class TrainedState:
    """What training has changed so far, whole, whatever the number of processes that hold it.

    Attributes:
        parameters: by name, in the precision that the optimizer works in.
        moments: by name of the parameter, what the optimizer keeps for it; a number as a tensor without dimensions.
        scaler: scale and growth count of float16's gradient scaler; empty without one.
    """

    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    moments: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    scaler: dict[str, float] = field(default_factory=dict)


FaultOf = Callable[[float], str]


def no_fault(norm: float) -> str:
    """Finds nothing wrong with any gradient norm."""
    return ""


class Backend(Protocol):
    """How a step is computed and kept. Where there are several processes, all of them make the same calls.

    Attributes:
        model: what the loop calls.
        equal_shares: whether every process must run the same number of micro-batches.
    """

    model: Any
    equal_shares: bool

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        ...

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Adds the gradients of a loss that is already divided by the step's weight; `last` of the step or not."""
        ...

    def step(self, max_norm: float | None, fault_of: FaultOf = no_fault) -> tuple[float, str]:
        """Sums the gradients over all processes, clips, updates, clears.

        Args:
            max_norm: to clip to.
            fault_of: says what is wrong with a norm; then there is no update.

        Returns:
            The norm before clipping, and what was wrong with it.
        """
        ...

    def drop(self) -> None:
        """Clears the gradients without an update."""
        ...

    def set_learning_rate(self, rate: float) -> None:
        """Sets the rate of the next update; a group with an `lr_ratio` gets that multiple of it."""
        ...

    def state(self) -> TrainedState:
        """Everything trained so far, for a checkpoint."""
        ...

    def load(self, state: TrainedState) -> None:
        """Goes on from what `state` gave, here or with another number of processes."""
        ...
