"""What a task is: it scores answers that were generated, or it asks the model itself in its own way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from danlu.data.questions import Convert, Question, converter
from danlu.evaluation.metrics import Given, Metric, Statistics
from danlu.recipe.tasks_schema import TaskSection

Scores = dict[str, Statistics]


@dataclass(frozen=True)
class Asked:
    """What a model said when a task asked it.

    Attributes:
        answer: what is shown of it.
        scores: statistics of the row by metric.
    """

    answer: Given
    scores: Scores = field(default_factory=dict)


class AnswerTask(Protocol):
    """Scores generated answers.

    Attributes:
        metrics: what it gives.
        own_rows: as in `ModelTask`.
        needs_reference: as in `ModelTask`.
    """

    metrics: tuple[Metric, ...]
    own_rows: bool
    needs_reference: bool

    def convert(self) -> Convert:
        """What makes a question of a row of its file."""
        ...

    def prepare(self, questions: Sequence[Question]) -> None:
        """Learns what it has to know of all questions, before any is asked."""
        ...

    def score(self, question: Question, answer: Given) -> Scores:
        """Statistics of one row, by metric."""
        ...

    def details(self, questions: Sequence[Question], answers: Sequence[Given]) -> dict[str, Any]:
        """What the report shows beside the figures of one model."""
        ...


class ModelTask(Protocol):
    """Asks the model in its own way.

    Attributes:
        metrics: what it gives.
        own_rows: whether its file has rows of a form of its own; else they are those that other tasks take too.
        needs_reference: whether each row must have a right answer.
    """

    metrics: tuple[Metric, ...]
    own_rows: bool
    needs_reference: bool

    def convert(self) -> Convert:
        """What makes a question of a row of its file."""
        ...

    def prepare(self, questions: Sequence[Question]) -> None:
        """Learns what it has to know of all questions, before any is asked."""
        ...

    def ask(self, engine: Any, questions: Sequence[Question], tuned: bool) -> Iterator[Asked]:
        """What the tuned model, or its base, says to each question, in order."""
        ...

    def details(self, questions: Sequence[Question], answers: Sequence[Given]) -> dict[str, Any]:
        """What the report shows beside the figures of one model."""
        ...


class TaskBase:
    """What tasks share.

    Args:
        section: of the recipe.
        metrics: what it gives, without the name that the section puts before.
    """

    needs_reference = True
    own_rows = False

    def __init__(self, section: TaskSection, *metrics: Metric) -> None:
        self.names = section.metric_names()
        self.metrics = tuple(replace(one, name=name) for one, name in zip(metrics, self.names, strict=True))
        self._form, self._columns = section.format, section.columns

    def convert(self) -> Convert:
        """What makes a question of a row of its file."""
        return converter(self._form, self._columns)

    def prepare(self, questions: Sequence[Question]) -> None:
        """Nothing to learn."""

    def details(self, questions: Sequence[Question], answers: Sequence[Given]) -> dict[str, Any]:
        """Nothing more."""
        return {}
