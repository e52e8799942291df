"""How fast a device computes what a pass consists of; this machine's processor is measured, in seconds, once a day."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch

from danlu.planning.devices import Device
from danlu.planning.meter import SIZES, Cost
from danlu.runs import danlu_home, write_json

_AGE_SECONDS = 24 * 3600.0
_ROWS = 512
# What a card's matrix products and memory reach of the maker's figures in training; products of small factors less.
_CARD_SHARE, _MEMORY_SHARE, _CARD_CALL_SECONDS = 0.6, 0.7, 8e-6
_SMALL_SHARE = {16: 0.1, 64: 0.3, 256: 0.7, 1024: 1.0}
# Of a processor: what an elementwise pass over a byte takes more than a copy does, what an operation takes beside
# computing, in seconds. Set by the recipes a to e of benchmarks/forecast.py.
# The products' share is of what one of them alone reaches.
_PRODUCT_SHARE, _PASSES, _MADE_SHARE, _CALL_SECONDS = 0.85, 2.0, 0.4, 20e-6


@dataclass(frozen=True)
class Speed:
    """What a device does in a second.

    Attributes:
        operations: of matrix products by the bucket of their smallest size (see `danlu.planning.meter.SIZES`).
        bytes_moved: by elementwise operations.
        weights_made: weights made from four or eight bits.
        call_seconds: of each operation beside its computing.
    """

    operations: dict[int, float]
    bytes_moved: float
    weights_made: float
    call_seconds: float

    def seconds(self, cost: Cost, made_weights: int = 0) -> float:
        """How long something takes."""
        products = sum(count / self.operations[size] for size, count in cost.operations.items())
        moved = cost.bytes_moved / self.bytes_moved
        return products + moved + cost.calls * self.call_seconds + made_weights / self.weights_made


def speed_of(device: Device, dtype: torch.dtype, quantized: bool) -> Speed:
    """A device's speed.

    Args:
        device: by name, or this machine.
        dtype: that is computed in.
        quantized: whether making weights from fewer bits has to be known.
    """
    if device.kind == "gpu":
        peak = device.operations_per_second * _CARD_SHARE / (1 if dtype.itemsize < 4 else 4)
        moved = device.bytes_per_second * _MEMORY_SHARE
        products = {size: peak * share for size, share in _SMALL_SHARE.items()}
        return Speed(products, moved, moved / 6, _CARD_CALL_SECONDS)
    found = _measured(dtype, quantized)
    products = {size: rate * _PRODUCT_SHARE for size, rate in found.operations.items()}
    moved, made = found.bytes_moved / _PASSES, found.weights_made * _MADE_SHARE
    return replace(found, operations=products, bytes_moved=moved, weights_made=made)


def _measured(dtype: torch.dtype, quantized: bool) -> Speed:
    """What was measured on this machine with as many threads, not long ago; else it is measured now."""
    from danlu.training.machine import prepare_machine

    prepare_machine()
    path = danlu_home() / "speed.json"
    key = f"{str(dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads{', few bits' if quantized else ''}"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if time.time() - known[key].pop("when") < _AGE_SECONDS:
            products = {int(size): rate for size, rate in known[key].pop("operations").items()}
            return Speed(products, **known[key])
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    if not isinstance(known, dict):
        known = {}
    found = measure(dtype, quantized)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**known, key: {**asdict(found), "when": time.time()}})
    return found


def measure(dtype: torch.dtype, quantized: bool) -> Speed:
    """Measures this processor: matrix products of each size, a copy, weights made from four bits."""
    operations = {size: 2.0 * _ROWS * size * _width(size) / _product_seconds(size, dtype) for size in SIZES}
    many = torch.zeros(1 << 22, dtype=dtype)
    other = torch.ones_like(many)
    moved = 3 * many.numel() * dtype.itemsize / _best(lambda: torch.add(many, other))
    made = _weights_made(dtype) if quantized else 1e9
    return Speed(operations, moved, made, _CALL_SECONDS)


def _width(size: int) -> int:
    """The other size of a matrix whose smallest is given: a layer's, in what models have."""
    return max(size, 1024)


def _product_seconds(size: int, dtype: torch.dtype) -> float:
    states = torch.randn(_ROWS, _width(size)).to(dtype)
    weight = torch.randn(size, _width(size)).to(dtype)
    return _best(lambda: torch.nn.functional.linear(states, weight))


def _weights_made(dtype: torch.dtype) -> float:
    """Weights that are made from four bits in a second; 1e9 without bitsandbytes."""
    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    except ImportError:
        return 1e9
    packed, state = quantize_4bit(torch.randn(1024, 1024), blocksize=64, compress_statistics=True, quant_type="nf4")
    state.dtype = dtype
    return (1 << 20) / _best(lambda: dequantize_4bit(packed, state))


def _best(run: Callable[[], object], seconds: float = 0.5) -> float:
    """The shortest of many calls: what the machine can do when nothing else takes from it."""
    run()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begun < seconds:
        before = time.perf_counter()
        run()
        times.append(time.perf_counter() - before)
    return min(times)
