"""Which held-out rows are attacked, and how an answer to one of them is scored: by the recipe's own tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from danlu.data.records import Messages
from danlu.errors import Fault, RecipeError
from danlu.evaluation.combining import row_scores
from danlu.evaluation.metrics import Given, Metric
from danlu.evaluation.parts import HELD_OUT, AskedRow, Part, spread


class AttackedRows:
    """Held-out rows that every task which scores an answer by itself is measured on.

    Args:
        parts: tasks with their rows.
        max_rows: at most so many, spread evenly; None: all.

    Raises:
        RecipeError: no task scores generated answers to held-out rows.
    """

    def __init__(self, parts: Sequence[Part], max_rows: int | None) -> None:
        self._parts = [part for part in parts if part.of.name == HELD_OUT and _metrics(part)]
        if not self._parts:
            what = "no task scores answers to held-out rows one by one, so a drop could not be seen"
            hint = "add one to evaluation.tasks, as in {type: rouge_l}; or leave robustness out"
            raise RecipeError(Fault(what, "evaluation.robustness", "answers, rouge_l, compliance, field", hint))
        asked = [{id(row) for row in part.rows} for part in self._parts]
        rows = [row for row in self._parts[0].rows if all(id(row) in one for one in asked)]
        self._rows: list[AskedRow] = spread(rows, max_rows)

    @property
    def questions(self) -> list[Messages]:
        """Conversations without their reference."""
        return [list(row.question.messages) for row in self._rows]

    @property
    def keys(self) -> list[str]:
        """Of the rows, as in `answers.jsonl`."""
        return [row.key for row in self._rows]

    @property
    def metrics(self) -> list[str]:
        """Names of what a score is the mean of."""
        return [metric.name for part in self._parts for metric in _metrics(part)]

    def score(self, texts: Sequence[str]) -> list[float]:
        """An answer to each row → the score of each: the mean of all metrics, between 0 and 1."""
        return [self._score(row, text) for row, text in zip(self._rows, texts, strict=True)]

    def _score(self, row: AskedRow, text: str) -> float:
        values: list[float] = []
        for part in self._parts:
            task: Any = part.task
            scores = task.score(row.question, Given(text))
            values += [row_scores(metric.kind, [scores[metric.name]])[0] for metric in _metrics(part)]
        return sum(values) / len(values)


def _metrics(part: Part) -> list[Metric]:
    """Those of a task's metrics that score one generated answer as a share of 1, larger is better."""
    if not part.generates or not hasattr(part.task, "score"):
        return []
    return [one for one in part.task.metrics if (one.kind, one.better, one.style) == ("mean", "higher", "share")]
