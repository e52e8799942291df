"""The matrix product alone, at a model's own shapes: what a training step could reach if it were nothing else.

python benchmarks/matrix_peak.py --model FOLDER [--dtype bfloat16 --dtype float32] [--tokens 1024] [--threads N]

For each shape of the model's linear layers and for the head: x·Wᵀ (forward) and g·W (gradient of the input), median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from danlu.adapters.targets import resolve_targets, skeleton
from danlu.models.loading import DTYPES
from danlu.training.machine import prepare_machine

RANK = 16
_MIN_REPEATS = 5


def model_shapes(folder: Path, rank: int) -> dict[str, Any]:
    """What every token goes through, from the config alone.

    Returns:
        `layers`: a list of [outputs, inputs, how many]; `head`: [outputs, inputs]; `adapter_parameters`: of a LoRA of
        that rank on all of these layers.
    """
    model = skeleton(folder)
    head = model.get_output_embeddings()
    targets = set(resolve_targets(model, "all-linear"))
    layers = {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    adapted = [sum(shape) for name, shape in layers.items() if name.rsplit(".", 1)[-1] in targets]
    return {
        "layers": [[*shape, count] for shape, count in Counter(layers.values()).items()],
        "head": [head.out_features, head.in_features],
        "adapter_parameters": rank * sum(adapted),
    }


def useful_flops(shapes: dict[str, Any], trained_share: float) -> dict[str, float]:
    """Floating-point operations that one token needs, by part; scores and values of the attention are not counted.

    Forward and input gradient of a frozen product are 2 operations for each parameter; the head is needed by trained
    tokens alone; the adapter's own gradient is a third pass.

    Args:
        shapes: from `model_shapes`.
        trained_share: trained tokens by tokens.
    """
    return {
        "layers": 4.0 * sum(outputs * inputs * count for outputs, inputs, count in shapes["layers"]),
        "head": 4.0 * shapes["head"][0] * shapes["head"][1] * trained_share,
        "adapter": 6.0 * shapes["adapter_parameters"],
    }


def weighted_peak(shapes: dict[str, Any], speeds: list[dict[str, Any]], trained_share: float) -> float:
    """Operations per second of all frozen products, each as often as a token needs it.

    Args:
        shapes: from `model_shapes`.
        speeds: from `measure`.
        trained_share: trained tokens by tokens: how often the head is needed.
    """
    by_shape = {tuple(speed["shape"]): speed for speed in speeds}
    operations, seconds = 0.0, 0.0
    for outputs, inputs, count in [*shapes["layers"], [*shapes["head"], trained_share]]:
        for way in ("forward", "backward"):
            one = 2.0 * outputs * inputs * count
            operations += one
            seconds += one / by_shape[outputs, inputs][way]
    return operations / seconds


def measure(outputs: int, inputs: int, dtype: torch.dtype, tokens: int, min_seconds: float) -> dict[str, Any]:
    """Operations per second of x·Wᵀ and of g·W."""
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator).mul_(0.02).to(dtype)

    weight, states, gradients = random(outputs, inputs), random(tokens, inputs), random(tokens, outputs)
    operations = 2.0 * tokens * outputs * inputs
    with torch.no_grad():
        forward = median_seconds(lambda: torch.nn.functional.linear(states, weight), min_seconds)
        backward = median_seconds(lambda: torch.mm(gradients, weight), min_seconds)
    return {"shape": [outputs, inputs], "forward": operations / forward, "backward": operations / backward}


def median_seconds(run: Callable[[], object], min_seconds: float) -> float:
    """Median time of one call, over some calls and at least so long, after two to warm up."""
    run()
    run()
    times: list[float] = []
    while len(times) < _MIN_REPEATS or sum(times) < min_seconds:
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """What a measurement of products is asked for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--threads", type=int)
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line, with the machine made ready for it."""
    asked = parser.parse_args()
    prepare_machine()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    return asked


def main() -> None:
    """Prints shapes and speeds as one line of JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--dtype", action="append", choices=sorted(DTYPES))
    parser.add_argument("--min-seconds", type=float, default=0.5, help="of each product's measurement")
    arguments = parsed(parser)
    shapes = model_shapes(arguments.model, RANK)
    sizes = list(dict.fromkeys((shape[0], shape[1]) for shape in (*shapes["layers"], shapes["head"])))
    speeds = {
        name: [
            measure(outputs, inputs, DTYPES[name], arguments.tokens, arguments.min_seconds) for outputs, inputs in sizes
        ]
        for name in arguments.dtype or DTYPES
    }
    found = {"tokens": arguments.tokens, "threads": torch.get_num_threads(), "shapes": shapes, "speeds": speeds}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
