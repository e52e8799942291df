"""What a metric is: its direction, how its rows make one figure, and how one answer is scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["mean", "ratio", "perplexity", "bleu", "chrf", "macro_f1", "distinct"]
Better = Literal["higher", "lower", "neither"]
Style = Literal["share", "points", "nats", "number"]
Statistics = tuple[float, ...]


@dataclass(frozen=True)
class Metric:
    """One figure of a report.

    Attributes:
        name: in reports and gates.
        kind: how the rows' statistics make one figure; see `danlu.evaluation.combining`.
        better: which way is better; "neither" for what is only told.
        style: how it is shown: share (of 1), points (of 100), nats, number.
    """

    name: str
    kind: Kind = "mean"
    better: Better = "higher"
    style: Style = "share"


@dataclass(frozen=True)
class Given:
    """An answer, wherever it came from.

    Attributes:
        text: without its end token.
        finish: "stop" if it ended by itself, "length" if it was cut.
        tokens: its length.
    """

    text: str
    finish: str = "stop"
    tokens: int = 0


@dataclass(frozen=True)
class TextMetric:
    """A metric of an answer's text.

    Attributes:
        metric: what it is.
        score: (answer, reference) → the row's statistics; the reference is empty where none is needed.
        needs_reference: whether it is.
    """

    metric: Metric
    score: Callable[[Given, str], Statistics]
    needs_reference: bool = True
