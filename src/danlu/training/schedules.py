"""Learning rate by optimizer step, as closed formulas.

Steps s are counted from 0, n of them, w of which warm up: linearly, at `peak·(s+1)/w`. What follows goes by the
progress p = (s-w+1)/(n-w+1), so that no step has a rate of 0 unless it is asked for. Transformers' schedules of n+1
steps give at s+1 what these give at s.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]

_ROUNDING = 1e-9  # 0.07·100 is a little above 7 in floating point, 0.29·100 a little below 29
_DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
}


def warmup_steps_of(num_steps: int, share: float | None, steps: int | None) -> int:
    """w: so many steps if they are given, else that share of n, rounded up; none without either."""
    return steps if steps is not None else math.ceil((share or 0.0) * num_steps - _ROUNDING)


def three_phase(num_steps: int, peak: float, warmup_steps: int, floor_share: float, floor: float) -> Schedule:
    """Linear warm-up, cosine (arXiv 1608.03983 without restarts), then a held floor.

    With f floor steps, step s has the rate `floor` for s ≥ n-f, and between warm-up and floor
    `floor + (peak-floor)·(1+cos(π·(s-w+1)/(n-f-w+1)))/2`.

    Args:
        num_steps: n, at least 1.
        peak: largest rate.
        warmup_steps: w; they win over the floor.
        floor_share: f/n, rounded down.
        floor: rate of the last phase; never above `peak`.
    """
    last = num_steps - math.floor(floor_share * num_steps + _ROUNDING)
    falling = _decay(last, peak, warmup_steps, floor, "cosine")
    return lambda step: falling(step) if step < max(last, warmup_steps) else min(floor, peak)


def constant(num_steps: int, peak: float, warmup_steps: int) -> Schedule:
    """Linear warm-up, then `peak`."""
    return lambda step: peak * min(1.0, (step + 1) / warmup_steps) if warmup_steps else peak


def linear(num_steps: int, peak: float, warmup_steps: int, min_rate: float) -> Schedule:
    """Linear warm-up, then `min_rate + (peak-min_rate)·(1-p)`."""
    return _decay(num_steps, peak, warmup_steps, min_rate, "linear")


def cosine(num_steps: int, peak: float, warmup_steps: int, min_rate: float) -> Schedule:
    """Linear warm-up, then `min_rate + (peak-min_rate)·(1+cos(π·p))/2` (arXiv 1608.03983)."""
    return _decay(num_steps, peak, warmup_steps, min_rate, "cosine")


def cosine_with_restarts(num_steps: int, peak: float, warmup_steps: int, min_rate: float, num_cycles: int) -> Schedule:
    """Linear warm-up, then `num_cycles` equal cosines, each from the peak (arXiv 1608.03983).

    The rate is `min_rate + (peak-min_rate)·(1+cos(π·c))/2`, c being the fractional part of `num_cycles·p`.
    """
    whole = num_steps - warmup_steps + 1

    def rate(step: int) -> float:
        if step < warmup_steps:
            return peak * (step + 1) / warmup_steps
        within = num_cycles * (step - warmup_steps + 1) % whole / whole  # whole numbers: no rounding at a restart
        return _between(min_rate, peak, _DECAYS["cosine"](within))

    return rate


def wsd(
    num_steps: int, peak: float, warmup_steps: int, min_rate: float, decay_share: float, decay_type: str
) -> Schedule:
    """Linear warm-up, a stable peak, and a decay at the end (WSD, arXiv 2404.06395).

    With d decay steps and q = (s-n+d+1)/(d+1), the last d steps have the rate `min_rate + (peak-min_rate)·f(q)`;
    f is 1-q (`linear`), (1+cos(π·q))/2 (`cosine`) or 1-√q (`1-sqrt`, arXiv 2405.18392).

    Args:
        num_steps: n, at least 1.
        peak: largest rate.
        warmup_steps: w; they win over the decay.
        min_rate: what the decay goes towards; never above `peak`.
        decay_share: d/n, rounded down.
        decay_type: the shape f.
    """
    first = max(num_steps - math.floor(decay_share * num_steps + _ROUNDING), warmup_steps)
    rising, falling = constant(num_steps, peak, warmup_steps), _decay(num_steps, peak, first, min_rate, decay_type)
    return lambda step: falling(step) if step >= first else rising(step)


def _decay(num_steps: int, peak: float, warmup_steps: int, min_rate: float, decay_type: str) -> Schedule:
    """Linear warm-up, then a fall from the peak over all steps that are left."""
    shape, whole = _DECAYS[decay_type], num_steps - warmup_steps + 1

    def rate(step: int) -> float:
        if step < warmup_steps:
            return peak * (step + 1) / warmup_steps
        return _between(min_rate, peak, shape((step - warmup_steps + 1) / whole))

    return rate


def _between(min_rate: float, peak: float, share: float) -> float:
    low = min(min_rate, peak)
    return low + (peak - low) * share
