"""A field that a pattern finds in the answer, against the reference's."""

from __future__ import annotations

import re

from danlu.data.questions import Question
from danlu.evaluation.metrics import Given, Metric
from danlu.evaluation.tasks.interface import Scores, TaskBase
from danlu.recipe.tasks_schema import FieldTask


def field_value(pattern: str, text: str) -> str | None:
    """The field in a text: the first group of the pattern's first match."""
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1) if found else None


def field_matches(pattern: str, answer: str, reference: str) -> float:
    """1 if the field is in the answer and equals the reference's."""
    value = field_value(pattern, answer)
    return float(value is not None and value == field_value(pattern, reference))


class FieldsTask(TaskBase):
    """See `AnswerTask`."""

    def __init__(self, section: FieldTask) -> None:
        super().__init__(section, Metric("field"))
        self._pattern = section.pattern

    def score(self, question: Question, answer: Given) -> Scores:
        """1 if the field is right."""
        return {self.names[0]: (field_matches(self._pattern, answer.text, question.reference or ""),)}
