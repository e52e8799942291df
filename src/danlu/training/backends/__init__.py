"""How one process, or several together, compute and keep a step; one file for each way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from danlu.errors import Fault, RecipeError
from danlu.recipe import Recipe
from danlu.recipe.training_schema import AutoBackend, DdpBackend, DeepSpeedBackend, Fsdp2Backend
from danlu.training.backends.interface import Backend
from danlu.training.backends.replicated import MakeOptimizer, Replicated
from danlu.training.optimizers import require_optimizer
from danlu.training.processes import Processes

_KEY = "training.backend"
Chosen = AutoBackend | DdpBackend | Fsdp2Backend | DeepSpeedBackend


def shards(chosen: Chosen) -> bool:
    """Whether no process holds the whole model."""
    return isinstance(chosen, Fsdp2Backend) or (isinstance(chosen, DeepSpeedBackend) and chosen.stage == 3)


def require_backend(recipe: Recipe, processes: Processes, dtype: torch.dtype) -> None:
    """Requires that the backend fits the processes and the rest of the recipe, before any weight is loaded.

    Raises:
        RecipeError: a fault for each thing that does not fit.
    """
    training, count = recipe.training, processes.world_size
    chosen, faults = training.backend, []
    if count == 1 and not isinstance(chosen, AutoBackend):
        what = f"{chosen.type} shares the work of several processes, and there is one"
        faults.append(
            Fault(
                what,
                _KEY,
                "auto for one process",
                "leave training.backend out, or start several: danlu train RECIPE --nproc 2",
            )
        )
    if count > training.global_batch_size:
        what = f"{count} processes for {training.global_batch_size} rows a step: some would have none"
        faults.append(
            Fault(what, "training.global_batch_size", f"at least {count}", "raise it, or start fewer processes")
        )
    if count > 1 and recipe.data.streaming:
        what = f"streamed rows are read by one process, and there are {count}"
        hint = "set data.streaming=false: rows are then prepared once, on disk; or leave out --nproc"
        faults.append(Fault(what, "data.streaming", "false", hint))
    if isinstance(chosen, Fsdp2Backend | DeepSpeedBackend):
        faults += _unsharded(recipe, chosen.type, dtype)
    if faults:
        raise RecipeError(*faults)
    if isinstance(chosen, DeepSpeedBackend):
        from danlu.training.backends.zero import require_deepspeed

        require_deepspeed()
    require_optimizer(training.optimizer, isinstance(chosen, Fsdp2Backend | DeepSpeedBackend))


def _unsharded(recipe: Recipe, name: str, dtype: torch.dtype) -> list[Fault]:
    """What a backend that keeps shards has not."""
    faults = []
    if dtype == torch.float16:
        what = f"{name} trains in float32 or bfloat16 here"
        faults.append(
            Fault(what, "model.dtype", "float32, bfloat16, auto", f"set model.dtype=auto, or {_KEY}={{type: ddp}}")
        )
    if recipe.model.quantization is not None:
        what = f"{name} can't keep weights of {recipe.model.quantization.type} in shards"
        faults.append(
            Fault(what, _KEY, "auto, ddp", f"set {_KEY}={{type: ddp}}: each process can hold a base this small")
        )
    return faults


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
