"""Memory, time and disk of a run, from passes measured on the meta device and a device's speed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from danlu.data.template import Document
from danlu.planning.devices import Device
from danlu.planning.ghost import Ghost
from danlu.planning.meter import Cost
from danlu.planning.speed import Speed
from danlu.planning.step import ACTIVATIONS, BACKWARD, GRADIENTS, LOSS, Pass, drawn_out, measure_pass
from danlu.planning.workload import Workload

PARTS = ("weights", "adapter", "gradients", "optimizer", ACTIVATIONS, LOSS, "overhead")
# Resident beside tensors. Of a processor: Python with torch, Transformers and PEFT, and of what passes hold, the share
# that glibc's heap leaves unused between blocks; set by the recipes a to e of benchmarks/forecast.py. Of a card:
# CUDA's context and libraries, and what torch's allocator keeps in blocks that are not full.
_PROCESS_BYTES, _HEAP_SHARE = 470 << 20, 0.67
# Weights that are made from four bits for each product, and freed after it, leave holes between what is kept;
# set by the recipe c.
_FOUR_BITS_HOLES_BYTES = 75 << 20
# What checkpointed layers let go of, and make again, leaves holes too: this share of it; set by the recipe d.
_SPARED_SHARE = 0.30
_CONTEXT_BYTES, _CACHE_SHARE = 550 << 20, 0.05
_EIGHT_BIT_BLOCK = 256  # moments that share a float32 constant in bitsandbytes


@dataclass(frozen=True)
class Passes:
    """Passes of some groups, from the largest to the smallest, and what each stands for.

    Attributes:
        passes: measured.
        tokens: of each, as the workload counts them.
    """

    passes: Sequence[Pass]
    tokens: Sequence[int]

    @property
    def largest(self) -> Pass:
        """Of the largest group."""
        return self.passes[0]

    def seconds(self, tokens: int, speed: Speed, what: str = "whole") -> float:
        """Of a group with so many tokens; `what` is an attribute of `Pass`."""
        made = [one.made_weights if what == "whole" else 0 for one in self.passes]
        each = [speed.seconds(getattr(one, what), count) for one, count in zip(self.passes, made, strict=True)]
        return float(np.interp(tokens, self.tokens[::-1], each[::-1]))


@dataclass(frozen=True)
class Shape:
    """A model's sizes and passes.

    Attributes:
        sizes: as `Ghost.sizes` gives them, and `largest_gradient`.
        passes: of some of the run's groups.
        spared: bytes that the largest group would hold more without checkpointed layers.
        four_bits: whether the base is kept in four bits.
    """

    sizes: Counter[str]
    passes: Passes
    spared: int
    four_bits: bool


def measure_shape(ghost: Ghost, work: Workload, accurate: bool) -> Shape:
    """Passes of the largest group, and with `accurate` of the smallest and of a middling one.

    Args:
        ghost: the model.
        work: the run's groups.
        accurate: else times of smaller groups are taken in proportion.
    """
    groups = work.groups()
    places = sorted({0, len(groups) // 2, len(groups) - 1}) if accurate else [0]
    chosen: dict[int, Pass] = {}
    for place in places:
        tokens = work.num_tokens(groups[place])
        if tokens not in chosen:
            chosen[tokens] = measure_pass(ghost, groups[place], work.accumulates)
    if len(chosen) == 1:
        ((tokens, largest),) = chosen.items()
        empty = Cost(calls=largest.whole.calls)
        chosen[0] = Pass(largest.at_peak, empty, empty, Cost(), largest.made_weights, 0, 0.0)
    passes = Passes(list(chosen.values()), list(chosen))
    return Shape(ghost.sizes(), passes, _spared(ghost, groups[0], passes.largest, work.accumulates), ghost.four_bits)


def _spared(ghost: Ghost, group: list[Document], found: Pass, accumulates: bool) -> int:
    """What checkpointed layers spare this group."""
    if not ghost.checkpointed:
        return 0
    share = ghost.checkpointed
    ghost.checkpoint(0)
    whole = measure_pass(ghost, group, accumulates)
    ghost.checkpoint(share)
    return max(0, sum(whole.at_peak.values()) - sum(found.at_peak.values()))


def draw_out(few: Shape, more: Shape, factor: float) -> Shape:
    """The shape at another number of layers (see `danlu.planning.step.drawn_out`)."""
    sizes = Counter({key: round(few.sizes[key] + (more.sizes[key] - few.sizes[key]) * factor) for key in more.sizes})
    sizes["largest_gradient"] = more.sizes["largest_gradient"]
    pairs = zip(few.passes.passes, more.passes.passes, strict=True)
    drawn = [drawn_out(low, high, factor) for low, high in pairs]
    spared = max(0, round(few.spared + (more.spared - few.spared) * factor))
    return Shape(sizes, Passes(drawn, more.passes.tokens), spared, more.four_bits)


def memory_parts(shape: Shape, optimizer: str, device: Device) -> dict[str, int]:
    """Bytes by part at the worst moment of training: in the backward pass, or where the optimizer steps.

    Args:
        shape: of the model.
        optimizer: of the recipe; `in_backward_` before its name: gradients are used up as they come.
        device: where.
    """
    sizes, at_peak = shape.sizes, dict(shape.passes.largest.at_peak)
    moments = _moment_bytes(optimizer.removeprefix("in_backward_"), sizes["trained"], sizes["small"], device)
    masters = 0 if optimizer.startswith("in_backward_") else sizes["masters"]
    held = {"weights": sizes["weights"], "adapter": sizes["adapter"], "optimizer": moments + masters}
    if optimizer.startswith("in_backward_"):
        at_peak[GRADIENTS] = sizes["largest_gradient"]
    stepping = sizes["gradients"] + masters  # gradients are float32 there, one copy for each master
    passing = sum(at_peak.values())
    if stepping > passing and not optimizer.startswith("in_backward_"):
        at_peak = {GRADIENTS: stepping}
    beside = {name: at_peak.get(name, 0) for name in (GRADIENTS, ACTIVATIONS, LOSS)}
    share, fixed = (_CACHE_SHARE, _CONTEXT_BYTES) if device.kind == "gpu" else (_HEAP_SHARE, _PROCESS_BYTES)
    moving, holes = sum(at_peak.values()), 0
    if device.kind == "cpu":
        holes = _FOUR_BITS_HOLES_BYTES * shape.four_bits + int(_SPARED_SHARE * shape.spared)
    return {**held, **beside, "overhead": int(at_peak.get(BACKWARD, 0) + share * moving + fixed + holes)}


def loading_bytes(parts: Mapping[str, int], file_bytes: int, four_bits: bool, device: Device) -> int:
    """Bytes while the base is loaded: on a processor its files lie in memory beside what is made of them.

    Args:
        parts: as `memory_parts` gives them.
        file_bytes: of the base's weights.
        four_bits: whether the base is kept in four bits; to make them leaves holes as to use them does.
        device: where.
    """
    held = parts["weights"] + parts["adapter"]
    holes = _FOUR_BITS_HOLES_BYTES if four_bits else 0
    return held + _CONTEXT_BYTES if device.kind == "gpu" else held + file_bytes + _PROCESS_BYTES + holes


def _moment_bytes(optimizer: str, trained: int, small: int, device: Device) -> int:
    if optimizer.startswith("paged") and device.kind == "gpu":
        return 0  # moved to the host's memory when it gets tight
    if optimizer.endswith("8bit"):
        return int((trained - small) * (2 + 8 / _EIGHT_BIT_BLOCK)) + 8 * small
    return 8 * trained


def step_seconds(work: Workload, passes: Passes, speed: Speed, trained_bytes: int, step: int) -> float:
    """Of one of the workload's known steps, by its place among them."""
    groups = sum(passes.seconds(work.num_tokens(group), speed) for group in work.steps[step])
    return groups + 7 * trained_bytes / speed.bytes_moved  # the optimizer reads and writes weight, gradient, moments


def below_seconds(work: Workload, passes: Passes, speed: Speed, num_steps: float) -> float:
    """Of layers that are computed once for all epochs, over so many steps."""
    groups = [group for step in work.steps for group in step]
    each = sum(passes.seconds(work.num_tokens(group), speed, "below") for group in groups)
    return each / len(work.steps) * num_steps


def disk_bytes(sizes: Counter[str], num_checkpoints: int, prepared: int) -> int:
    """What a run folder and its prepared data take: what is trained, checkpoints with moments, 32 MB of all else."""
    saved = sizes["adapter"] or sizes["weights"]
    checkpoints = num_checkpoints * 12 * sizes["trained"]
    return int(saved + checkpoints + prepared + (32 << 20))


def facts(shape: Shape) -> dict[str, Any]:
    """What the forecast is made of, so that its constants can be set by measurements."""
    largest = shape.passes.largest
    return {
        "sizes": dict(shape.sizes),
        "at_peak": dict(largest.at_peak),
        "operations": dict(largest.whole.operations),
        "bytes_moved": largest.whole.bytes_moved,
        "calls": largest.whole.calls,
        "made_weights": largest.made_weights,
        "spared": shape.spared,
        "tokens": list(shape.passes.tokens),
    }
