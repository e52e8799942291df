"""Distinct-n (Li et al., 2016): different runs of n tokens over all runs of n tokens, in all answers together.

Of few and short answers it is high by itself, so it has no interval: rows drawn twice would lower it. A row's
statistics are its runs, each as a number that stands for it.
"""

from __future__ import annotations

import hashlib

from danlu.evaluation.metrics.interface import Metric, Statistics, TextMetric
from danlu.evaluation.metrics.language import characters_and_words


def _runs(text: str, n: int) -> Statistics:
    """The runs of n tokens, words and single Chinese characters, as numbers that a float holds exactly."""
    tokens = characters_and_words(text)
    return tuple(map(_number, zip(*(tokens[start:] for start in range(n)), strict=False)))


def _number(run: tuple[str, ...]) -> float:
    """48 bits: of ten million runs, two different ones have the same with a chance of 1 in 6."""
    return float(int.from_bytes(hashlib.blake2b("\0".join(run).encode(), digest_size=6).digest(), "big"))


def _metric(n: int) -> TextMetric:
    return TextMetric(
        Metric(f"distinct_{n}", "distinct"), lambda answer, _: _runs(answer.text, n), needs_reference=False
    )


DISTINCT = (_metric(1), _metric(2))
