"""The interval of a difference that was measured on the same rows twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def paired_interval(differences: Sequence[float], seed: int, resamples: int = 2000) -> list[float]:
    """95 % percentile bootstrap interval of the mean of paired differences (Efron 1979): low, high."""
    values = np.asarray(differences, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return [float(low), float(high)]
