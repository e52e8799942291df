"""DeepSpeed's ZeRO (arXiv 1910.02054): gradients and moments in shards, in stage 3 parameters too."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from danlu.errors import Fault, RecipeError
from danlu.models.quiet import quiet_deepspeed
from danlu.recipe.training_schema import DeepSpeedBackend
from danlu.training.backends.interface import FaultOf, TrainedState, no_fault
from danlu.training.backends.replicated import MakeOptimizer, set_rates, sum_over_processes

_MOMENTS = ("exp_avg", "exp_avg_sq")


def require_deepspeed() -> Any:
    """The library, on this machine's accelerator.

    Raises:
        RecipeError: it is not installed.
    """
    quiet_deepspeed()
    try:
        import deepspeed
    except ImportError as error:
        raise RecipeError(
            Fault(
                "DeepSpeed is not installed",
                "training.backend",
                "auto, ddp, fsdp2",
                "pip install 'danlu[deepspeed]', or take another backend",
            )
        ) from error
    deepspeed.logger.setLevel("WARNING")
    # Sums for inference through shared memory, which training never asks for: left to itself, the library compiles them
    # at each first use, and waits for ever for the lock of a compilation that was killed.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    warnings.filterwarnings("ignore", "`torch.distributed.all_gather_into_tensor`", FutureWarning)  # DeepSpeed calls it
    return deepspeed


class Zero:
    """A model that DeepSpeed computes and keeps.

    Args:
        model: a wrapped or plain model; stage 3 shards it in place.
        trained: the trained parameters by name.
        make_optimizer: makes AdamW.
        chosen: stage and offload.
        max_norm: gradients are clipped to it; None: not at all.
    """

    equal_shares = True

    def __init__(
        self,
        model: Any,
        trained: Mapping[str, torch.nn.Parameter],
        make_optimizer: MakeOptimizer,
        chosen: DeepSpeedBackend,
        max_norm: float | None,
    ) -> None:
        deepspeed = require_deepspeed()
        self._trained, self._stage = dict(trained), chosen.stage
        self._offloads = chosen.offload != "none"
        self._device = next(iter(trained.values())).device
        self._world_size = torch.distributed.get_world_size()
        zero: dict[str, Any] = {"stage": chosen.stage, "reduce_scatter": self._device.type == "cuda"}
        if chosen.offload != "none":
            zero["offload_optimizer"] = {"device": "cpu"}
        if chosen.offload == "all":
            zero["offload_param"] = {"device": "cpu"}
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "managed_gradient_accumulation": False,  # a step ends where the loop says
            "gradient_clipping": max_norm or 0.0,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "bf16": {"enabled": all(one.dtype == torch.bfloat16 for one in trained.values())},
        }
        self.model, *_ = deepspeed.initialize(model=model, optimizer=make_optimizer(trained), config=config)

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        return sum_over_processes(value, self._device)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Adds the gradients of a loss; DeepSpeed takes the mean over processes, so the loss is made that larger."""
        self.model.backward(loss * self._world_size)

    def step(self, max_norm: float | None, fault_of: FaultOf = no_fault) -> tuple[float, str]:
        """Clips to the norm given at the beginning, updates, clears; the norm before clipping, and its fault.

        The norm is not known before the update: DeepSpeed leaves that out by itself where the norm is not finite, and
        what else is wrong with a norm is no fault here.
        """
        self.model.step()
        norm = float(self.model.get_global_grad_norm() or 0.0)
        return norm, "" if math.isfinite(norm) else fault_of(norm)

    def drop(self) -> None:
        """Clears the gradients without an update, as DeepSpeed does where they are not finite."""
        zero = self.model.optimizer
        zero.finalize_gradient_accumulation_boundary()
        zero.zero_grad(set_to_none=True)
        zero.micro_step_id = 0 if self._stage == 3 else -1
        if self._offloads:
            zero.reset_cpu_buffers()
        elif self._stage == 3:
            zero.averaged_gradients = {}
        else:
            for gradients in (zero.averaged_gradients, zero.all_grad_tensors):
                gradients.update(dict.fromkeys(gradients))

    def set_learning_rate(self, rate: float) -> None:
        """Sets the rate of the next update; a group with an `lr_ratio` gets that multiple of it."""
        set_rates(self.model.optimizer, rate)

    def state(self) -> TrainedState:
        """Everything trained so far, gathered."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        steps = self._step_count()
        if steps:
            self._link_moments()
        state = TrainedState()
        for name, parameter in self._trained.items():
            kept = safe_get_full_fp32_param(parameter)
            whole = parameter.detach() if kept is None else kept
            state.parameters[name] = whole.clone()
            moments = {  # the optimizer makes them with the first step
                key: safe_get_full_optimizer_state(parameter, key) if steps else torch.zeros_like(whole)
                for key in _MOMENTS
            }
            state.moments[name] = {"step": steps.clone()} | {
                key: value.clone() for key, value in moments.items() if value is not None
            }
        return state

    def load(self, state: TrainedState) -> None:
        """Goes on from a state, each process with its share."""
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        steps = next(iter(state.moments.values()))["step"]
        inner = self.model.optimizer.optimizer
        for shard in self._shards():  # made with the first step otherwise
            inner.state[shard] = {"step": steps.clone(), **{key: torch.zeros_like(shard) for key in _MOMENTS}}
        self._link_moments()
        for name, parameter in self._trained.items():
            whole = state.parameters[name].to(self._device)
            safe_set_full_fp32_param(parameter, whole)
            for key in _MOMENTS:
                safe_set_full_optimizer_state(parameter, state.moments[name][key].to(self._device), key)
            with GatheredParameters(parameter, modifier_rank=0, enabled=self._stage == 3), torch.no_grad():
                parameter.copy_(whole)  # what the forward pass reads, until the first step writes it anew

    def _shards(self) -> list[torch.Tensor]:
        """This process's part of what the optimizer updates; stage 3 shows it to the optimizer in a step alone."""
        zero = self.model.optimizer
        flat: list[torch.Tensor] = (
            zero.single_partition_of_fp32_groups if self._stage == 2 else zero.fp32_partitioned_groups_flat
        )
        return flat

    def _link_moments(self) -> None:
        """Lets stage 2 find the moments in all groups; its own link is made after the first group's step."""
        if self._stage == 2:
            self.model.optimizer._hp_optimizer_states_linked = False
            self.model.optimizer._lazy_init_hp_params_optimizer_state()

    def _step_count(self) -> torch.Tensor:
        kept: dict[str, Any] = next(iter(self.model.optimizer.optimizer.state.values()), {})
        return torch.as_tensor(kept.get("step", 0.0), dtype=torch.float32)
