"""Labels in answers: accuracy, macro-F1 and the confusion of one label with another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from danlu.data.questions import Question
from danlu.errors import DataError, Fault
from danlu.evaluation.metrics import Given, Metric
from danlu.evaluation.metrics.exact_match import normal_answer
from danlu.evaluation.tasks.compliance import holds_word
from danlu.evaluation.tasks.interface import Scores, TaskBase
from danlu.recipe.tasks_schema import ClassificationTask

NONE = "(none)"


def label_in(answer: str, labels: Sequence[str]) -> str:
    """The label that an answer names: it alone, else the one label in its first line that has one; else `(none)`.

    A label within a longer one that is there too (late within late fee) does not count beside it.
    """
    normal = {normal_answer(label): label for label in labels}
    whole = normal.get(normal_answer(answer))
    if whole is not None:
        return whole
    for line in answer.splitlines():
        found = [label for label in labels if holds_word(line, label)]
        longest = [one for one in found if not any(one != other and one in other for other in found)]
        if longest:
            return longest[0] if len(longest) == 1 else NONE
    return NONE


class LabelsTask(TaskBase):
    """See `AnswerTask`; `prepare` tells it the questions first."""

    def __init__(self, section: ClassificationTask) -> None:
        super().__init__(section, Metric("accuracy"), Metric("macro_f1", "macro_f1"))
        self._labels: tuple[str, ...] = section.labels or ()
        self._given = section.labels is not None

    def prepare(self, questions: Sequence[Question]) -> None:
        """Takes the labels from the references where the recipe names none.

        Raises:
            DataError: a reference is none of the recipe's labels.
        """
        if not self._given:
            self._labels = tuple(sorted({(question.reference or "").strip() for question in questions}))
        odd = [one for one in questions if label_in(one.reference or "", self._labels) == NONE]
        if odd:
            what = f"the reference is none of the labels: {(odd[0].reference or '')[:60]!r}"
            hint = "mend the row, or name its label in the task's labels"
            raise DataError(Fault(what, odd[0].where, ", ".join(self._labels), hint))

    def score(self, question: Question, answer: Given) -> Scores:
        """Whether the label is right; and of each label, whether it is right, predicted, true."""
        predicted, true = label_in(answer.text, self._labels), label_in(question.reference or "", self._labels)
        counts = [
            float(is_it)
            for label in self._labels
            for is_it in (predicted == true == label, predicted == label, true == label)
        ]
        return {self.names[0]: (float(predicted == true),), self.names[1]: tuple(counts)}

    def details(self, questions: Sequence[Question], answers: Sequence[Given]) -> dict[str, Any]:
        """`confusion`: of each true label, how often which was predicted."""
        pairs = zip(questions, answers, strict=True)
        counts = Counter(
            (label_in(question.reference or "", self._labels), label_in(answer.text, self._labels))
            for question, answer in pairs
        )
        return {
            "confusion": {
                true: {predicted: counts[true, predicted] for predicted in (*self._labels, NONE)}
                for true in self._labels
            }
        }
