"""Whether a difference is more than noise: bootstrap and randomisation of pairs, McNemar's test, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from danlu.evaluation.combining import COMBINE, Floats

_MOST_DRAWN = 4_000_000
_ROUNDING = 1e-9  # sums in another order differ by so much: all rows swapped is as far apart as none


@dataclass(frozen=True)
class Interval:
    """A difference with what the bootstrap says of it.

    Attributes:
        difference: second minus first.
        low: lower end of the percentile interval.
        high: upper end.
    """

    difference: float
    low: float
    high: float


def paired_bootstrap(
    first: Floats,
    second: Floats,
    combine: Callable[[Floats], Floats],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The percentile interval of second - first (Efron and Tibshirani 1993, chapter 13), rows drawn in pairs.

    Args:
        first: statistics of N rows, `[N, S]`.
        second: of the same rows, in the same order.
        combine: sums `[B, S]` → figures `[B]`.
        confidence: of the interval.
        resamples: how often N rows are drawn.
        seed: of the draws; equal to `scipy.stats.bootstrap` with `numpy.random.default_rng(seed)`.
    """
    number = len(first)
    rng = np.random.default_rng(seed)
    sums = np.empty((2, resamples, first.shape[1]))
    for place in range(resamples):  # one by one: in one product, the last bit would depend on how many there are
        counts = np.bincount(rng.integers(0, number, number), minlength=number).astype(np.float64)
        sums[:, place] = counts @ first, counts @ second
    differences = combine(sums[1]) - combine(sums[0])
    difference = _apart(combine, first.sum(0), second.sum(0))
    tail = (1 - confidence) / 2
    low, high = (float(value) for value in np.percentile(differences, [100 * tail, 100 * (1 - tail)]))
    return Interval(difference, low, high)


def paired_randomisation(
    first: Floats, second: Floats, combine: Callable[[Floats], Floats], resamples: int = 2000, seed: int = 0
) -> float:
    """How likely so large a difference is if each row's two outputs could as well be the other model's.

    Approximate randomisation (Noreen 1989; for text metrics Riezler and Maxwell 2005), two-sided: each row's pair is
    swapped by a coin. It is exact at its level for any number of rows, which the bootstrap of few rows is not.

    Args:
        first: statistics of N rows, `[N, S]`.
        second: of the same rows, in the same order.
        combine: sums `[B, S]` → figures `[B]`.
        resamples: how often the coins are thrown.
        seed: of the coins.
    """
    number, gains = len(first), second - first
    rng = np.random.default_rng(seed)
    sums = first.sum(0), second.sum(0)
    real = abs(_apart(combine, *sums))
    as_far, step = 0, max(1, _MOST_DRAWN // number)
    for start in range(0, resamples, step):
        swapped = rng.integers(0, 2, (min(step, resamples - start), number)).astype(np.float64) @ gains
        apart = np.abs(combine(sums[1] - swapped) - combine(sums[0] + swapped))
        as_far += int(np.count_nonzero(apart >= real * (1 - _ROUNDING)))
    return (as_far + 1) / (resamples + 1)


def _apart(combine: Callable[[Floats], Floats], first: Floats, second: Floats) -> float:
    return float(combine(second[None])[0] - combine(first[None])[0])


def mean_interval(differences: Sequence[float], seed: int, resamples: int = 2000) -> list[float]:
    """95 % interval of the mean of differences that were measured on the same rows twice: low, high."""
    second = np.column_stack([np.asarray(differences, np.float64), np.ones(len(differences))])
    first = np.column_stack([np.zeros(len(differences)), np.ones(len(differences))])
    found = paired_bootstrap(first, second, COMBINE["mean"], resamples=resamples, seed=seed)
    return [found.low, found.high]


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact test (1947), two-sided: how likely so uneven a split of the rows that differ is by chance.

    Args:
        only_first: rows that the first alone has right.
        only_second: rows that the second alone has right.
    """
    differ = only_first + only_second
    below = sum(math.comb(differ, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * below / 2**differ) if differ else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """P values corrected for how many there are (Holm, 1979), in the given order."""
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected, largest = [1.0] * len(values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = largest
    return corrected


def outcomes(first: Sequence[float], second: Sequence[float], better: str = "higher") -> dict[str, int]:
    """In how many rows the second is better, equal, worse."""
    sign = -1 if better == "lower" else 1
    gains = sign * (np.asarray(second, np.float64) - np.asarray(first, np.float64))
    wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
    return {"wins": wins, "ties": len(gains) - wins - losses, "losses": losses}
