"""How one process, or several together, compute and keep a step; one file for each way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from danlu.errors import Fault, RecipeError
from danlu.recipe.training_schema import AutoBackend, DdpBackend, DeepSpeedBackend, Fsdp2Backend
from danlu.training.backends.interface import Backend
from danlu.training.backends.replicated import MakeOptimizer, Replicated
from danlu.training.processes import Processes

Chosen = AutoBackend | DdpBackend | Fsdp2Backend | DeepSpeedBackend


def shards(chosen: Chosen) -> bool:
    """Whether no process holds the whole model."""
    return isinstance(chosen, Fsdp2Backend) or (isinstance(chosen, DeepSpeedBackend) and chosen.stage == 3)


def require_backend(chosen: Chosen, processes: Processes, rows_per_step: int, dtype: torch.dtype) -> None:
    """Requires that the backend fits the processes, before any weight is loaded.

    Raises:
        RecipeError: it needs several processes, there are more processes than rows in a step, or it has no float16.
    """
    key = "training.backend"
    if processes.world_size == 1 and not isinstance(chosen, AutoBackend):
        raise RecipeError(
            Fault(
                f"{chosen.type} shares the work of several processes, and there is one",
                key,
                "auto for one process",
                "start several: danlu train RECIPE --nproc 2",
            )
        )
    if processes.world_size > rows_per_step:
        raise RecipeError(
            Fault(
                f"{processes.world_size} processes for {rows_per_step} rows a step: some would have none",
                "training.global_batch_size",
                f"at least {processes.world_size}",
                "raise it, or start fewer processes",
            )
        )
    if dtype == torch.float16 and isinstance(chosen, (Fsdp2Backend, DeepSpeedBackend)):
        raise RecipeError(
            Fault(
                f"{chosen.type} trains in float32 or bfloat16 here", "model.dtype", "float32, bfloat16, auto", "use ddp"
            )
        )


def make_backend(
    chosen: Chosen,
    model: Any,
    make_optimizer: MakeOptimizer,
    processes: Processes,
    max_norm: float | None,
) -> Backend:
    """The backend of a recipe, checked before by `require_backend`.

    Args:
        chosen: the recipe's `training.backend`.
        model: as it will compute; a sharding backend changes it in place.
        make_optimizer: makes the optimizer from trained parameters by name.
        processes: of the run.
        max_norm: to which gradients are clipped, for backends that must know it early.
    """
    trained: Mapping[str, torch.nn.Parameter] = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    if isinstance(chosen, Fsdp2Backend):
        from danlu.training.backends.sharded import Sharded

        device = next(iter(trained.values())).device
        return Sharded(model, list(trained), make_optimizer, device, chosen.cpu_offload)
    if isinstance(chosen, DeepSpeedBackend):
        from danlu.training.backends.zero import Zero

        return Zero(model, trained, make_optimizer, chosen, max_norm)
    float16 = any(parameter.dtype == torch.float16 for parameter in model.parameters())
    return Replicated(model, trained, make_optimizer, float16, processes.world_size)
