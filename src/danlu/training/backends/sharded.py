"""Parameters, gradients and moments in shards: PyTorch's `fully_shard` (FSDP2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from danlu.training.backends.interface import FaultOf, TrainedState, no_fault
from danlu.training.backends.replicated import MakeOptimizer, load_moments, moments_of, set_rates, sum_over_processes


class Sharded:
    """Each process keeps its share of every parameter; a layer is whole only while it is computed.

    Trained parameters of fewer bits are kept in float32 and rounded when they are gathered.

    Args:
        model: a wrapped or plain model; its layers are sharded in place.
        trained: names of the trained parameters.
        make_optimizer: makes the optimizer of the shards.
        device: where layers are computed.
        cpu_offload: shards rest in the host's memory.
    """

    equal_shares = True

    def __init__(
        self,
        model: Any,
        trained: list[str],
        make_optimizer: MakeOptimizer,
        device: torch.device,
        cpu_offload: bool = False,
    ) -> None:
        self.model, self._device = model, device
        layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        named = dict(model.named_parameters())
        dtypes = {named[name].dtype for name in trained}
        rounded = next((dtype for dtype in dtypes if dtype != torch.float32), None)
        for name in trained:
            named[name].data = named[name].data.float()
        policy = MixedPrecisionPolicy(param_dtype=rounded, reduce_dtype=torch.float32 if rounded else None)
        offload = CPUOffloadPolicy() if cpu_offload else OffloadPolicy()
        for module in (*layers, model):
            fully_shard(module, mp_policy=policy, offload_policy=offload)
        for module in (*layers, model):
            module.set_gradient_divide_factor(1.0)  # sums, as everywhere else
            module.set_force_sum_reduction_for_comms(True)
        named = dict(model.named_parameters())
        self._trained = {name: named[name] for name in trained}
        self.optimizer = make_optimizer(self._trained)

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        return sum_over_processes(value, self._device)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Adds the gradients of a loss, each process those of its shards."""
        loss.backward()

    def step(self, max_norm: float | None, fault_of: FaultOf = no_fault) -> tuple[float, str]:
        """Clips, updates, clears; the norm before clipping, and the fault by which there was no update."""
        clipped: Any = torch.nn.utils.clip_grad_norm_(self._trained.values(), max_norm if max_norm else float("inf"))
        norm = float(clipped.full_tensor() if isinstance(clipped, DTensor) else clipped)
        fault = fault_of(norm)
        if not fault:
            self.optimizer.step()
        self.drop()
        return norm, fault

    def drop(self) -> None:
        """Clears the gradients without an update."""
        self.optimizer.zero_grad(set_to_none=True)

    def set_learning_rate(self, rate: float) -> None:
        """Sets the rate of the next update; a group with an `lr_ratio` gets that multiple of it."""
        set_rates(self.optimizer, rate)

    def state(self) -> TrainedState:
        """Everything trained so far, gathered."""
        moments = moments_of(self.optimizer, self._trained)
        return TrainedState(
            {name: _whole(parameter.detach()) for name, parameter in self._trained.items()},
            {name: {key: _whole(value) for key, value in kept.items()} for name, kept in moments.items()},
        )

    def load(self, state: TrainedState) -> None:
        """Goes on from a state, each process with its share."""
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(_shared_out(state.parameters[name], parameter))
        load_moments(self.optimizer, self._trained, self._moments_shared_out(state.moments))

    def _moments_shared_out(self, moments: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, dict[str, Any]]:
        return {
            name: {
                key: _shared_out(value, self._trained[name]) if value.dim() else value for key, value in kept.items()
            }
            for name, kept in moments.items()
        }


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _shared_out(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    assert isinstance(like, DTensor)
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
