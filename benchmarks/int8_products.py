"""Would a base in dynamic int8 train faster than one in bfloat16? Its products alone, at a model's own shapes, in turn.

    python benchmarks/int8_products.py --model FOLDER [--tokens 1024 --threads N --out results/NAME.json]

For each shape: x·Wᵀ (forward) and g·W (gradient of the input), in bfloat16 and in int8 as training would have them:
each token and each channel of the weight by a scale of its own, x and g put into int8 as they come, the int32 sums
scaled back to bfloat16. `speedup` is of all products of a token; `alone` leaves out what is not a product, so it can't
be reached.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import describe_run, write_result
from matrix_peak import RANK, make_parser, model_shapes, parsed

_ROUNDS = 15


def into_int8(states: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers from -127 to 127, and the scale of each row (`dim` 1) or column (`dim` 0)."""
    scale = states.abs().amax(dim, keepdim=True).float().div_(127.0).clamp_(min=1e-12)
    return torch.round(states / scale).to(torch.int8), scale


def int8_product(states: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor) -> torch.Tensor:
    """`states [T, in] · weight [in, out]`, as bfloat16; the weight in int8, its scale `[1, out]`."""
    integers, scale = into_int8(states, 1)
    return torch._int_mm(integers, weight).float().mul_(scale).mul_(weight_scale).to(states.dtype)


def measure(outputs: int, inputs: int, tokens: int) -> dict[str, Any]:
    """Median seconds of each product, measured in turn, and how far int8 is from bfloat16."""
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator).mul_(0.02).bfloat16()

    weight, states, gradients = random(outputs, inputs), random(tokens, inputs), random(tokens, outputs)
    found: dict[str, Any] = {"shape": [outputs, inputs]}
    for way, given, wide in (("forward", states, weight.t()), ("backward", gradients, weight)):
        frozen, frozen_scale = into_int8(wide, 0)
        integers, _ = into_int8(given, 1)
        ways: dict[str, Callable[[], torch.Tensor]] = {
            "bfloat16": lambda given=given, wide=wide: given @ wide,
            "int8": lambda given=given, frozen=frozen, scale=frozen_scale: int8_product(given, frozen, scale),
            "int8 alone": lambda integers=integers, frozen=frozen: torch._int_mm(integers, frozen),
        }
        exact = given.float() @ wide.float()
        found[way] = {
            name: {"seconds": seconds, "gflops": 2e-9 * tokens * outputs * inputs / seconds}
            for name, seconds in in_turn(ways).items()
        }
        for name in ("bfloat16", "int8"):
            found[way][name]["relative_error"] = float((ways[name]().float() - exact).norm() / exact.norm())
    return found


def in_turn(ways: dict[str, Callable[[], torch.Tensor]]) -> dict[str, float]:
    """Median seconds of one call of each."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(_ROUNDS + 2):
        for name, run in ways.items():
            begun = time.perf_counter()
            run()
            if number >= 2:
                times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    """Prints a line for each shape, and the sum of all."""
    parser = make_parser(__doc__)
    parser.add_argument("--out", type=Path)
    asked = parsed(parser)
    shapes = model_shapes(asked.model, RANK)
    measured, total = [], dict.fromkeys(("bfloat16", "int8", "int8 alone"), 0.0)
    for outputs, inputs, count in [*shapes["layers"], [*shapes["head"], 1]]:
        found = measure(outputs, inputs, asked.tokens)
        measured.append(found)
        for way in ("forward", "backward"):
            print(found["shape"], way, ", ".join(f"{name} {found[way][name]['gflops']:.0f} GFLOP/s" for name in total))
            for name in total:
                total[name] += count * found[way][name]["seconds"]
    speedup, alone = total["bfloat16"] / total["int8"], total["bfloat16"] / total["int8 alone"]
    print(f"all products of {asked.tokens} tokens: {speedup:.2f} times as fast in int8; the products alone {alone:.2f}")
    if asked.out:
        result = {**describe_run(torch.get_num_threads()), "tokens": asked.tokens, "shapes": measured}
        write_result(asked.out, {**result, "speedup": speedup, "speedup_alone": alone})


if __name__ == "__main__":
    main()
