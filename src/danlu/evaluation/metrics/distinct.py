"""Distinct-n (Li et al., 2016): different runs of n tokens over all runs of n tokens, in all answers together.

Of few and short answers it is high by itself, so it has no interval: rows drawn twice would lower it.
"""

from __future__ import annotations

from collections.abc import Iterable

from danlu.evaluation.metrics.interface import Given, Metric, Statistics, TextMetric
from danlu.evaluation.metrics.language import characters_and_words


def distinct(texts: Iterable[str], n: int) -> float:
    """Share of the runs of n tokens that are different; words, and single Chinese characters. 0 without any."""
    runs = [run for text in texts for run in _runs(characters_and_words(text), n)]
    return len(set(runs)) / len(runs) if runs else 0.0


def _runs(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))


def _metric(n: int) -> TextMetric:
    def score(answer: Given, reference: str) -> Statistics:
        return (distinct([answer.text], n),)

    return TextMetric(Metric(f"distinct_{n}", "distinct"), score, needs_reference=False)


DISTINCT = (_metric(1), _metric(2))
