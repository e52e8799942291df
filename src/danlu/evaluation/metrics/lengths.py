"""How long answers are: told, not judged."""

from __future__ import annotations

from danlu.evaluation.metrics.interface import Given, Metric, Statistics, TextMetric


def _tokens(answer: Given, reference: str) -> Statistics:
    return (float(answer.tokens),)


def _characters(answer: Given, reference: str) -> Statistics:
    return (float(len(answer.text)),)


LENGTHS = (
    TextMetric(Metric("answer_tokens", better="neither", style="number"), _tokens, needs_reference=False),
    TextMetric(Metric("answer_characters", better="neither", style="number"), _characters, needs_reference=False),
)
