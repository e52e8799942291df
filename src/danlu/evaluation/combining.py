"""From the statistics of rows to one figure: they are added up over the rows, and the sums make the figure.

So a figure of rows drawn at random, as the bootstrap asks for, costs a sum and no second look at the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def _ratio(sums: Floats) -> Floats:
    return sums[:, 0] / sums[:, 1]


def _perplexity(sums: Floats) -> Floats:
    return np.exp(_ratio(sums))


def _bleu(sums: Floats) -> Floats:
    from danlu.evaluation.metrics.bleu import scorer

    return np.array([scorer()._compute_score_from_stats(row.tolist()).score for row in sums])


def _chrf(sums: Floats) -> Floats:
    from danlu.evaluation.metrics.chrf import scorer

    return np.array([scorer()._compute_score_from_stats(row.tolist()).score for row in sums])


def _macro_f1(sums: Floats) -> Floats:
    """Columns: of each label the rows that are right, are predicted so, and truly are so. Labels that none is do not
    count, as in scikit-learn with the labels that occur.
    """
    hits, predicted, true = (sums[:, place::3] for place in range(3))
    there = predicted + true
    f1 = np.divide(2 * hits, there, out=np.zeros_like(hits), where=there > 0)
    return np.asarray(f1.sum(1) / np.maximum(1, (there > 0).sum(1)))


# mean has a column of ones after the score, so that its figure is a ratio too. distinct is none of these: how many
# different runs there are is no sum over rows.
COMBINE: dict[str, Callable[[Floats], Floats]] = {
    "mean": _ratio,
    "ratio": _ratio,
    "perplexity": _perplexity,
    "bleu": _bleu,
    "chrf": _chrf,
    "macro_f1": _macro_f1,
}


def _distinct(runs: Sequence[float]) -> float:
    """Share of runs that are different; 0 without any."""
    return len(set(runs)) / len(runs) if runs else 0.0


def as_table(kind: str, rows: list[tuple[float, ...]]) -> Floats:
    """Statistics of N rows as `[N, S]`."""
    table = np.array(rows, np.float64).reshape(len(rows), -1)
    return np.column_stack([table, np.ones(len(rows))]) if kind == "mean" else table


def figure(kind: str, rows: list[tuple[float, ...]]) -> float:
    """The metric's value over all of the rows."""
    if kind == "distinct":
        return _distinct([run for row in rows for run in row])
    return float(COMBINE[kind](as_table(kind, rows).sum(0, keepdims=True))[0])


def row_scores(kind: str, rows: list[tuple[float, ...]]) -> list[float]:
    """The metric of each row alone, by which rows are ordered and wins counted; a macro-F1's is whether it is right."""
    if kind == "macro_f1":
        return [float(any(row[::3])) for row in rows]
    if kind == "distinct":
        return list(map(_distinct, rows))
    return COMBINE[kind](as_table(kind, rows)).tolist() if rows else []
