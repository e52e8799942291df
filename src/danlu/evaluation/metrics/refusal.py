"""Share of the answers that begin as a refusal, by the patterns that clean training rows of them."""

from __future__ import annotations

import functools

from danlu.data.cleaning.refusal import Refusal
from danlu.data.records import Record, RowFault
from danlu.evaluation.metrics.interface import Given, Metric, Statistics, TextMetric


@functools.cache
def _patterns() -> Refusal:
    return Refusal()


def refuses(answer: str) -> bool:
    """Whether an answer refuses the request itself; see `danlu.data.cleaning.refusal`."""
    try:
        _patterns()(Record([{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]))
    except RowFault:
        return True
    return False


def _score(answer: Given, reference: str) -> Statistics:
    return (float(refuses(answer.text)),)


REFUSAL_RATE = TextMetric(Metric("refusal_rate", better="lower"), _score, needs_reference=False)
