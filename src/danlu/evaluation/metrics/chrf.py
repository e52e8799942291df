"""Corpus chrF (Popović, 2015) by sacrebleu, from statistics of each row; from 0 to 100.

It needs no words, so it is the same for any language.
"""

from __future__ import annotations

import functools
from typing import Any

from danlu.evaluation.metrics.interface import Given, Metric, Statistics, TextMetric


@functools.cache
def scorer() -> Any:
    """Sacrebleu's chrF with its own defaults: up to 6 characters, beta 2."""
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def chrf_statistics(answer: Given, reference: str) -> Statistics:
    """For 1 to 6 characters: how many the answer has, the reference has, and both."""
    (row,) = scorer()._extract_corpus_statistics([answer.text], [[reference]])
    return tuple(map(float, row))


CHRF = TextMetric(Metric("chrf", "chrf", style="points"), chrf_statistics)
