"""What the recipe's `evaluation.tasks` measure, over all held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from danlu.engines.interface import Answer
from danlu.evaluation.metrics import complies, field_matches, keeps, rouge_l
from danlu.recipe.evaluation_schema import ComplianceTask, FieldTask, LossTask, RougeTask, Task


@dataclass(frozen=True)
class TaskResult:
    """One metric of one model.

    Attributes:
        name: of the metric.
        value: the mean.
        scores: by row; empty for the loss.
        parts: rate of each rule, for compliance.
    """

    name: str
    value: float
    scores: tuple[float, ...] = ()
    parts: dict[str, float] | None = None


def task_name(task: Task) -> str:
    """The metric's name: the field's for a field, else the type."""
    return task.name if isinstance(task, FieldTask) else task.type


def run_task(task: Task, answers: Sequence[Answer], references: Sequence[str], loss: float) -> TaskResult:
    """Measures one task.

    Args:
        task: from the recipe.
        answers: the model's, at least one.
        references: the right answers, in the same order.
        loss: the model's mean loss on the references.
    """
    name = task_name(task)
    texts = [answer.text for answer in answers]
    pairs = list(zip(texts, references, strict=True))
    if isinstance(task, LossTask):
        return TaskResult(name, loss)
    if isinstance(task, RougeTask):
        return _mean(name, [rouge_l(text, reference) for text, reference in pairs])
    if isinstance(task, ComplianceTask):
        parts = {rule.name: sum(keeps(rule, text) for text in texts) / len(texts) for rule in task.rules}
        return _mean(name, [complies(task, text) for text in texts], parts)
    return _mean(name, [field_matches(task, text, reference) for text, reference in pairs])


def _mean(name: str, scores: list[float], parts: dict[str, float] | None = None) -> TaskResult:
    return TaskResult(name, sum(scores) / len(scores), tuple(scores), parts)
