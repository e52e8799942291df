"""Metrics of answers, one kind per file; here is the table of all that `metrics:` of a recipe can name."""

from danlu.evaluation.metrics.bleu import BLEU
from danlu.evaluation.metrics.chrf import CHRF
from danlu.evaluation.metrics.distinct import DISTINCT
from danlu.evaluation.metrics.exact_match import EXACT_MATCH, TOKEN_F1
from danlu.evaluation.metrics.interface import Given, Metric, Statistics, TextMetric
from danlu.evaluation.metrics.lengths import LENGTHS
from danlu.evaluation.metrics.refusal import REFUSAL_RATE
from danlu.evaluation.metrics.rouge import ROUGE

METRICS = {
    one.metric.name: one for one in (BLEU, CHRF, *ROUGE, EXACT_MATCH, TOKEN_F1, *DISTINCT, *LENGTHS, REFUSAL_RATE)
}

__all__ = ["METRICS", "Given", "Metric", "Statistics", "TextMetric"]
