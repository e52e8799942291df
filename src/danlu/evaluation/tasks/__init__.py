"""What the recipe's `evaluation.tasks` measure, one kind of task per file; here is the table of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from danlu.data.questions import Question
from danlu.evaluation.combining import figure
from danlu.evaluation.metrics import Given
from danlu.evaluation.tasks.classification import LabelsTask
from danlu.evaluation.tasks.compliance import RulesTask
from danlu.evaluation.tasks.conversation import Conversations
from danlu.evaluation.tasks.fields import FieldsTask
from danlu.evaluation.tasks.interface import AnswerTask, ModelTask
from danlu.evaluation.tasks.judging import Judge
from danlu.evaluation.tasks.likelihood import Perplexity, ReferenceLoss, TokenAccuracy
from danlu.evaluation.tasks.multiple_choice import MultipleChoice
from danlu.evaluation.tasks.texts import TextTask
from danlu.recipe.tasks_schema import Task

ANSWER_TASKS: dict[str, Callable[[Any], AnswerTask]] = {
    "answers": TextTask,
    "rouge_l": TextTask,
    "compliance": RulesTask,
    "field": FieldsTask,
    "classification": LabelsTask,
}
MODEL_TASKS: dict[str, Callable[[Any, int], ModelTask]] = {
    "loss": lambda section, _: ReferenceLoss(section),
    "token_accuracy": lambda section, _: TokenAccuracy(section),
    "perplexity": lambda section, _: Perplexity(section),
    "multiple_choice": lambda section, _: MultipleChoice(section),
    "conversation": Conversations,
}


def make_task(section: Task, max_new_tokens: int) -> AnswerTask | ModelTask | Judge:
    """The task that a section of the recipe asks for.

    Args:
        section: of the recipe.
        max_new_tokens: longest answer, for tasks that generate by themselves.
    """
    if section.type == "judge":
        return Judge(section)
    if section.type in MODEL_TASKS:
        return MODEL_TASKS[section.type](section, max_new_tokens)
    return ANSWER_TASKS[section.type](section)


def measure_answers(
    sections: Sequence[Task], questions: Sequence[Question], answers: Sequence[Given]
) -> dict[str, float]:
    """The figures of those tasks on held-out rows that need answers alone, by metric; none without answers.

    Args:
        sections: the recipe's tasks.
        questions: with their references.
        answers: one for each.
    """
    found: dict[str, float] = {}
    for section in sections if questions else ():
        if section.file is not None or section.type not in ANSWER_TASKS:
            continue
        task = ANSWER_TASKS[section.type](section)
        task.prepare(questions)
        scores = [task.score(question, answer) for question, answer in zip(questions, answers, strict=True)]
        found |= {one.name: figure(one.kind, [row[one.name] for row in scores]) for one in task.metrics}
    return found
