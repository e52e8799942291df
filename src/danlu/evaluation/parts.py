"""What is asked: each task with its rows. Tasks on one file share its rows, and so the answers to them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.data.questions import Question, read_questions
from danlu.errors import DataError, Fault
from danlu.evaluation.metrics import Given, Statistics
from danlu.evaluation.tasks import make_task
from danlu.evaluation.tasks.interface import AnswerTask, ModelTask
from danlu.evaluation.tasks.judging import Judge
from danlu.recipe.tasks_schema import Task

HELD_OUT = "held-out rows"
GROUPS = ("domain", "group")
MODELS = ("base", "tuned")
_SHOWN_FAULTS = 5


@dataclass
class AskedRow:
    """One question with all that is known of it.

    Attributes:
        key: of its content, with a number after it where a set has it again.
        question: what is asked.
        answers: what was generated, by model.
        scores: statistics by metric and model.
    """

    key: str
    question: Question
    answers: dict[str, Given] = field(default_factory=dict)
    scores: dict[str, dict[str, Statistics]] = field(default_factory=dict)


@dataclass
class RowSet:
    """Rows that are asked.

    Attributes:
        name: for people: a file, or the held-out rows.
        key: unlike that of any other set.
        rows: in the file's order.
    """

    name: str
    key: str
    rows: list[AskedRow]


@dataclass
class Part:
    """One task with its rows.

    Attributes:
        section: of the recipe.
        task: what is done with the rows.
        rows: those that it is measured on.
        of: the set that they are of.
        groups: of each row, or None where rows have none.
    """

    section: Task
    task: AnswerTask | ModelTask | Judge
    rows: list[AskedRow]
    of: RowSet
    groups: list[str] | None

    @property
    def generates(self) -> bool:
        """Whether it takes answers that are generated for it."""
        return not hasattr(self.task, "ask")


def make_parts(
    sections: Sequence[Task], held: Sequence[Question], find: Callable[[str], Path], max_new_tokens: int
) -> list[Part]:
    """Reads the files of all tasks.

    Args:
        sections: the recipe's tasks.
        held: held-out rows.
        find: resolves a plain path.
        max_new_tokens: longest answer.

    Raises:
        DataError: faults of all files: not there, rows that can't be asked, references that are missing.
        FolderError: a task is on held-out rows, and there are none.
    """
    sets: dict[str, RowSet] = {}
    parts: list[Part] = []
    faults: list[Fault] = []
    for section in sections:
        try:
            parts.append(_make_part(section, held, find, max_new_tokens, sets))
        except DataError as error:
            faults += error.faults
    if faults:
        raise DataError(*dict.fromkeys(faults))
    return parts


def _make_part(
    section: Task, held: Sequence[Question], find: Callable[[str], Path], max_new_tokens: int, sets: dict[str, RowSet]
) -> Part:
    task = make_task(section, max_new_tokens)
    own = section.metric_names()[0] if task.own_rows else ""
    key = json.dumps([section.file, section.format, section.columns, own], sort_keys=True)
    if key not in sets:
        questions = held if section.file is None else read_questions(section.file, find, task.convert())
        if not questions:
            raise DataError(Fault("no rows to judge by", section.file or HELD_OUT, hint="name another file"))
        sets[key] = RowSet(section.file or HELD_OUT, key, _keyed(questions))
    chosen = spread(sets[key].rows, section.max_rows)
    if task.needs_reference:
        _require_references(chosen)
    task.prepare([row.question for row in chosen])
    return Part(section, task, chosen, sets[key], _groups(section.group_by, chosen))


def spread(rows: list[Any], most: int | None) -> list[Any]:
    """At most so many of them, spread evenly."""
    count = min(len(rows), most or len(rows))
    return [rows[place * len(rows) // count] for place in range(count)]


def _keyed(questions: Sequence[Question]) -> list[AskedRow]:
    seen: Counter[str] = Counter()
    rows = []
    for question in questions:
        key = question.key
        seen[key] += 1
        rows.append(AskedRow(key if seen[key] == 1 else f"{key}-{seen[key]}", question))
    return rows


def _require_references(rows: Sequence[AskedRow]) -> None:
    without = [row.question.where for row in rows if not (row.question.reference or "").strip()]
    faults = [
        Fault(
            "the reference is missing: the row has no answer to judge by",
            where,
            hint="give it its answer, or take it out; or ask for metrics that need none",
        )
        for where in without[:_SHOWN_FAULTS]
    ]
    if len(without) > len(faults):
        faults.append(Fault(f"and {len(without) - len(faults)} more rows without a reference", without[-1]))
    if faults:
        raise DataError(*faults)


def _groups(name: str | None, rows: Sequence[AskedRow]) -> list[str] | None:
    """The group of each row.

    Raises:
        DataError: the field was asked for, and a row lacks it.
    """
    names = (name,) if name else GROUPS
    for one in names:
        values = [row.question.fields.get(one) for row in rows]
        if all(isinstance(value, str | int) and str(value).strip() for value in values):
            return [str(value).strip() for value in values]
        if name:
            place = next(row for row, value in zip(rows, values, strict=True) if not isinstance(value, str | int))
            what = f"the row has no field `{name}`"
            raise DataError(
                Fault(what, place.question.where, "a field that every row has", "change the task's group_by")
            )
    return None
