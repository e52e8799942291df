"""Whether this machine has the memory, the disk and the time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import torch

from danlu.models.loading import choose_device
from danlu.planning.findings import Finding
from danlu.planning.look import Look
from danlu.planning.run import plan

_SURE, _NEAR = 1.15, 0.9  # the forecast is within 15 %
_LONG_SECONDS = 7 * 24 * 3600.0


def resources(look: Look) -> Iterator[Finding]:
    """The forecast fits memory, disk and patience."""
    found = plan(look.loaded, base=look.base, accurate=False)
    yield from _memory(found["memory_bytes"], found["device"]["memory_bytes"], look.recipe.training.max_memory)
    yield from _disk(found["disk_bytes"], look)
    if found["seconds"] > _LONG_SECONDS:
        what = f"the run would take about {found['seconds'] / 86400:.0f} days here"
        yield Finding("warning", "takes-long", what, "training.num_epochs", "danlu plan RECIPE --device a100-80gb")


def _memory(needed: int, free: int, bound: int | None) -> Iterator[Finding]:
    hint = "danlu plan RECIPE shows what would fit: a smaller training.micro_batch_tokens, checkpointing, QLoRA"
    if bound is not None and bound < free:
        return  # training keeps to it, or says what it needs
    if needed > _SURE * free:
        what = f"about {needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free"
        yield Finding("error", "out-of-memory", what, "training.micro_batch_tokens", hint)
    elif needed > _NEAR * free:
        what = f"about {needed / 1e9:.1f} GB are needed of the {free / 1e9:.1f} GB that are free"
        yield Finding("warning", "memory-tight", what, "training.micro_batch_tokens", hint)


def _disk(needed: int, look: Look) -> Iterator[Finding]:
    place = look.loaded.run_folder
    while not os.path.exists(place):
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        what = f"the run writes about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
        hint = "training.checkpoints.keep_last=1, or run.folder on another disk"
        yield Finding("error", "disk-full", what, str(place), hint)


def emulated(look: Look) -> Iterator[Finding]:
    """The dtype is one that this processor multiplies in."""
    if look.recipe.model.dtype != "bfloat16" or choose_device().type != "cpu":
        return
    capabilities = torch.cpu.get_capabilities()
    if not any(capabilities.get(flag) for flag in ("avx512_bf16", "amx_bf16", "bf16")):
        what = "this processor emulates bfloat16: training is several times slower than in float32"
        yield Finding("warning", "emulated-dtype", what, "model.dtype", "model.dtype=auto")
