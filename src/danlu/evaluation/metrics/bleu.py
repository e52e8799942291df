"""Corpus BLEU (Papineni et al., 2002) by sacrebleu, from statistics of each row; from 0 to 100.

Tokens are sacrebleu's 13a, or its zh where the reference is Chinese. The statistics of rows add up, so those of a mixed
corpus do too.
"""

from __future__ import annotations

import functools
from typing import Any

from danlu.evaluation.metrics.interface import Given, Metric, Statistics, TextMetric
from danlu.evaluation.metrics.language import is_chinese


@functools.cache
def scorer(tokenize: str = "13a") -> Any:
    """Sacrebleu's BLEU with its own defaults."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=tokenize, force=True)


def bleu_statistics(answer: Given, reference: str) -> Statistics:
    """Length of answer and reference, matches of 1 to 4 tokens, and how many there are."""
    chosen = scorer("zh" if is_chinese(reference) else "13a")
    (row,) = chosen._extract_corpus_statistics([answer.text], [[reference]])
    return tuple(map(float, row))


BLEU = TextMetric(Metric("bleu", "bleu", style="points"), bleu_statistics)
