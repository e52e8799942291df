"""ROUGE-1, ROUGE-2 and ROUGE-L F-measures (Lin, 2004) by rouge-score; Chinese is cut into words by jieba."""

from __future__ import annotations

import functools
from typing import Any

from danlu.evaluation.metrics.interface import Given, Metric, Statistics, TextMetric
from danlu.evaluation.metrics.language import words

_OWN_NAMES = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}


class _Words:
    """Tokenizer for rouge-score."""

    def tokenize(self, text: str) -> list[str]:
        """Lower-cased words."""
        return words(text)


@functools.cache
def _scorer(name: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([_OWN_NAMES[name]], tokenizer=_Words())


def rouge(name: str, answer: str, reference: str) -> float:
    """The F-measure of rouge_1, rouge_2 or rouge_l, from 0 to 1."""
    score: float = _scorer(name).score(reference, answer)[_OWN_NAMES[name]].fmeasure
    return score


def _metric(name: str) -> TextMetric:
    def score(answer: Given, reference: str) -> Statistics:
        return (rouge(name, answer.text, reference),)

    return TextMetric(Metric(name), score)


ROUGE = tuple(map(_metric, _OWN_NAMES))
