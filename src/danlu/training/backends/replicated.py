"""The whole model in every process; gradients are summed over them once a step. One process alone is the usual case."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from danlu.training.backends.interface import FaultOf, TrainedState, no_fault

MakeOptimizer = Callable[[Mapping[str, torch.nn.Parameter]], torch.optim.Optimizer]
_BUCKET_BYTES = 64 << 20


class MasterWeights:
    """Float32 copies of parameters that are computed in fewer bits, for the optimizer (arXiv 1710.03740).

    A parameter of 32 bits or more is its own master.
    """

    def __init__(self, computed: Mapping[str, torch.nn.Parameter]) -> None:
        self.computed = dict(computed)
        self.masters = {
            name: parameter
            if torch.finfo(parameter.dtype).bits >= 32
            else torch.nn.Parameter(parameter.detach().to(torch.float32, copy=True))
            for name, parameter in computed.items()
        }

    def take_gradients(self) -> None:
        """Moves the gradients of the computed parameters to their masters."""
        for name, parameter in self.computed.items():
            master = self.masters[name]
            if master is not parameter:
                master.grad = None if parameter.grad is None else parameter.grad.float()
                parameter.grad = None

    def drop_gradients(self) -> None:
        """Clears the gradients of both."""
        for parameter in (*self.computed.values(), *self.masters.values()):
            parameter.grad = None

    def give_values(self) -> None:
        """Rounds the masters into the computed parameters."""
        with torch.no_grad():
            for name, parameter in self.computed.items():
                if self.masters[name] is not parameter:
                    parameter.copy_(self.masters[name])


class Replicated:
    """One process, or several that each hold the whole model (data parallel, as in torch's DDP).

    Args:
        model: as it will compute.
        trained: its trained parameters by name.
        make_optimizer: makes the optimizer of the masters.
        float16: whether gradients are scaled so that float16 holds them.
        world_size: number of processes; more than one need an initialised process group.
    """

    equal_shares = False

    def __init__(
        self,
        model: Any,
        trained: Mapping[str, torch.nn.Parameter],
        make_optimizer: MakeOptimizer,
        float16: bool = False,
        world_size: int = 1,
    ) -> None:
        self.model = model
        self._weights = MasterWeights(trained)
        self._masters = list(self._weights.masters.values())
        self.optimizer = make_optimizer(self._weights.masters)
        self._device, self._world_size = self._masters[0].device, world_size
        self._scaler = torch.amp.GradScaler(self._device.type) if float16 else None

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        return sum_over_processes(value, self._device) if self._world_size > 1 else value

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Adds the gradients of a loss."""
        (self._scaler.scale(loss) if self._scaler else loss).backward()

    def step(self, max_norm: float | None, fault_of: FaultOf = no_fault) -> tuple[float, str]:
        """Sums the gradients over all processes, clips, updates, clears; the norm before clipping, and its fault.

        In float16 gradients that are not finite are no fault: the update is left out, and the scale is halved.
        """
        self._weights.take_gradients()
        if self._world_size > 1:
            _sum_gradients(self._masters)
        if self._scaler:
            self._scaler.unscale_(self.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self._masters, max_norm if max_norm else float("inf")))
        fault = "" if self._scaler and not math.isfinite(norm) else fault_of(norm)
        if self._scaler:
            if not fault:
                self._scaler.step(self.optimizer)
            self._scaler.update()
        elif not fault:
            self.optimizer.step()
        self._weights.give_values()
        self.optimizer.zero_grad(set_to_none=True)
        return norm, fault

    def drop(self) -> None:
        """Clears the gradients without an update."""
        self._weights.drop_gradients()

    def set_learning_rate(self, rate: float) -> None:
        """Sets the rate of the next update; a group with an `lr_ratio` gets that multiple of it."""
        set_rates(self.optimizer, rate)

    def state(self) -> TrainedState:
        """Everything trained so far."""
        masters = self._weights.masters
        scaler = {name: float(value) for name, value in self._scaler.state_dict().items()} if self._scaler else {}
        return TrainedState(
            {name: master.detach() for name, master in masters.items()}, moments_of(self.optimizer, masters), scaler
        )

    def load(self, state: TrainedState) -> None:
        """Goes on from a state."""
        with torch.no_grad():
            for name, master in self._weights.masters.items():
                master.copy_(state.parameters[name])
        self._weights.give_values()
        load_moments(self.optimizer, self._weights.masters, state.moments)
        if self._scaler and state.scaler:
            self._scaler.load_state_dict(
                {
                    name: int(value) if name == "growth_interval" or name == "_growth_tracker" else value
                    for name, value in state.scaler.items()
                }
            )


def set_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of every group, times the group's `lr_ratio` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_ratio", 1.0)


def sum_over_processes(value: float, device: torch.device) -> float:
    """The sum of a number over all processes, in float64."""
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(tensor)
    return float(tensor)


def _sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sums gradients over all processes, many at once; a process without one adds nothing."""
    bucket: list[torch.nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter)
        size += parameter.numel() * parameter.element_size()
        if size >= _BUCKET_BYTES:
            _sum_bucket(bucket)
            bucket, size = [], 0
    if bucket:
        _sum_bucket(bucket)


def _sum_bucket(parameters: list[torch.nn.Parameter]) -> None:
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    torch.distributed.all_reduce(flat)
    for parameter, summed in zip(parameters, flat.split([one.numel() for one in parameters]), strict=True):
        parameter.grad = summed.view_as(parameter)


def moments_of(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, dict[str, torch.Tensor]]:
    """What an optimizer keeps, by parameter's name."""
    return {
        name: {key: torch.as_tensor(value) for key, value in optimizer.state[parameter].items()}
        for name, parameter in parameters.items()
        if parameter in optimizer.state
    }


def load_moments(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, torch.nn.Parameter],
    moments: Mapping[str, Mapping[str, Any]],
) -> None:
    """Gives an optimizer what `moments_of` took; `step` stays a number where the optimizer counts in one."""
    places = {
        id(one): place for place, one in enumerate(p for group in optimizer.param_groups for p in group["params"])
    }
    state = {places[id(parameters[name])]: dict(kept) for name, kept in moments.items()}
    counts_in_tensors = isinstance(optimizer, torch.optim.Optimizer) and type(optimizer).__module__.startswith("torch.")
    for kept in state.values():
        if "step" in kept and not counts_in_tensors:
            kept["step"] = int(kept["step"])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
