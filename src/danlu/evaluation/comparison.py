"""One metric of two models on the same rows: difference, interval, wins, test, and what may be said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from danlu.evaluation.combining import COMBINE, as_table, figure, row_scores
from danlu.evaluation.metrics import Metric, Statistics
from danlu.evaluation.statistics import holm, mcnemar, outcomes, paired_bootstrap, paired_randomisation


@dataclass(frozen=True)
class Resampling:
    """How intervals and tests are made.

    Attributes:
        confidence: of the intervals.
        resamples: how often rows are drawn, and how often they are swapped.
        seed: of both.
    """

    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0


def compare_metric(
    metric: Metric, first: Sequence[Statistics], second: Sequence[Statistics], resampling: Resampling
) -> dict[str, Any]:
    """A metric of the first and of the second model, as plain values.

    Args:
        metric: what is compared.
        first: statistics of N rows.
        second: of the same rows.
        resampling: how intervals and tests are made.

    Returns:
        `first`, `second`, `difference`, `interval` (low and high, or None), `p` (or None), `test`, `wins`, `ties`,
        `losses` of the second, `rows`, `kind`, `better`, `style`.
    """
    rows = [list(first), list(second)]
    values = [figure(metric.kind, one) for one in rows]
    singles = [row_scores(metric.kind, one) for one in rows]
    made: dict[str, Any] = {
        "first": values[0],
        "second": values[1],
        "difference": values[1] - values[0],
        "interval": None,
        "p": None,
        "test": None,
        **outcomes(singles[0], singles[1], metric.better),
        "rows": len(first),
        "kind": metric.kind,
        "better": metric.better,
        "style": metric.style,
    }
    if metric.kind == "distinct" or len(first) < 2:
        return made
    tables = [as_table(metric.kind, one) for one in rows]
    combine, times, seed = COMBINE[metric.kind], resampling.resamples, resampling.seed
    found = paired_bootstrap(tables[0], tables[1], combine, resampling.confidence, times, seed)
    made |= {"interval": [found.low, found.high]}
    if metric.kind == "mean" and np.isin(tables, (0.0, 1.0)).all():
        return made | {"p": mcnemar(made["wins"], made["losses"]), "test": "McNemar, exact"}
    return made | {
        "p": paired_randomisation(tables[0], tables[1], combine, times, seed),
        "test": "paired randomisation",
    }


def with_verdicts(compared: dict[str, dict[str, Any]], confidence: float) -> dict[str, dict[str, Any]]:
    """Each comparison with `p_corrected` (Holm, over all that are judged) and its `verdict`.

    The verdict is "better", "worse", "no difference", "not judged", or, of what has no better side, "higher" or
    "lower".
    """
    names = [name for name, one in compared.items() if one["p"] is not None]
    corrected = dict(zip(names, holm([compared[name]["p"] for name in names]), strict=True))
    return {
        name: {**one, "p_corrected": corrected.get(name), "verdict": _verdict(one, corrected.get(name), confidence)}
        for name, one in compared.items()
    }


def _verdict(one: dict[str, Any], p: float | None, confidence: float) -> str:
    if p is None:
        return "not judged"
    if p > 1 - confidence or one["difference"] == 0.0:
        return "no difference"
    if one["better"] == "neither":
        return "higher" if one["difference"] > 0 else "lower"
    return "better" if (one["difference"] > 0) == (one["better"] == "higher") else "worse"
