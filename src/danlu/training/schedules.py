"""Learning rate by optimizer step, as closed formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]

_ROUNDING = 1e-9  # 0.07·100 is a little above 7 in floating point, 0.29·100 a little below 29


def three_phase(num_steps: int, peak: float, warmup_share: float, floor_share: float, floor: float) -> Schedule:
    """Linear warm-up, cosine (arXiv 1608.03983 without restarts), then a held floor.

    With w warm-up steps and f floor steps of n, step s (counted from 0) has the rate
    `peak·(s+1)/w` for s < w, `floor` for s ≥ n-f, and between them
    `floor + (peak-floor)·(1+cos(π·(s-w+1)/(n-f-w+1)))/2`.

    Args:
        num_steps: n, at least 1.
        peak: largest rate.
        warmup_share: w/n, rounded up.
        floor_share: f/n, rounded down.
        floor: rate of the last phase; never above `peak`.
    """
    warmup = _rounded_up(warmup_share * num_steps)
    last = num_steps - math.floor(floor_share * num_steps + _ROUNDING)
    floor = min(floor, peak)

    def rate(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / warmup
        if step >= last:
            return floor
        progress = (step - warmup + 1) / (last - warmup + 1)
        return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return rate


def constant(num_steps: int, peak: float, warmup_share: float) -> Schedule:
    """Linear warm-up over `warmup_share` of the steps (rounded up), then `peak`."""
    warmup = _rounded_up(warmup_share * num_steps)
    return lambda step: peak * min(1.0, (step + 1) / warmup) if warmup else peak


def _rounded_up(steps: float) -> int:
    return math.ceil(steps - _ROUNDING)
