"""Metrics of the answers' text: BLEU, ROUGE and the others of the table, and ROUGE-L by itself."""

from __future__ import annotations

from danlu.data.questions import Question
from danlu.evaluation.metrics import METRICS, Given
from danlu.evaluation.tasks.interface import Scores, TaskBase
from danlu.recipe.tasks_schema import AnswersTask, RougeTask


class TextTask(TaskBase):
    """See `AnswerTask`."""

    def __init__(self, section: AnswersTask | RougeTask) -> None:
        self._asked = [METRICS[name] for name in section.own_metrics()]
        super().__init__(section, *(one.metric for one in self._asked))
        self.needs_reference = any(one.needs_reference for one in self._asked)

    def score(self, question: Question, answer: Given) -> Scores:
        """Each metric's statistics."""
        scored = zip(self.names, self._asked, strict=True)
        return {name: one.score(answer, question.reference or "") for name, one in scored}
