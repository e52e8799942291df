"""Evaluation files against what a run was trained on: a model is not judged by what it has learnt by heart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from danlu.data.duplicates.leaks import LeakIndex
from danlu.data.duplicates.shingles import shingles, text_of_record
from danlu.data.questions import Question
from danlu.data.records import Record
from danlu.errors import DataError, Fault

_SHOWN = 5
_KINDS = {"row": ("row",), "prompt": ("prompt",), "either": ("row", "prompt")}


@dataclass(frozen=True)
class Known:
    """A row that was trained on.

    Attributes:
        record: what it says.
        where: its place.
    """

    record: Record
    where: str


def require_no_overlap(questions: Sequence[Question], trained: Sequence[Known], compare: str, threshold: float) -> None:
    """Requires that no question is a near-copy of a row that was trained on.

    Args:
        questions: of evaluation files.
        trained: rows that were trained on.
        compare: row, prompt or either, as data.leaks.compare.
        threshold: Jaccard similarity of the shingles from which on.

    Raises:
        DataError: naming the first rows, and what they are copies of.
    """
    found: dict[str, tuple[str, float]] = {}
    for kind in _KINDS[compare]:
        index = LeakIndex((shingles(text_of_record(_record(one), kind)) for one in questions), threshold)
        for known in trained:
            hit = index.nearest(shingles(text_of_record(known.record, kind)))
            if hit is not None:
                place, similarity = hit
                where = questions[place].where
                if similarity > found.get(where, ("", 0.0))[1]:
                    found[where] = (known.where, similarity)
    if not found:
        return
    faults = [
        Fault(
            f"this evaluation row was trained on: it is a near-copy of {copy} (similarity {similarity:.2f})",
            where,
            hint="take it out of the evaluation file, or out of the training rows and train again",
        )
        for where, (copy, similarity) in list(found.items())[:_SHOWN]
    ]
    if len(found) > _SHOWN:
        faults.append(Fault(f"and {len(found) - _SHOWN} more rows of evaluation files were trained on"))
    raise DataError(*faults)


def _record(question: Question) -> Record:
    return Record(question.conversation if question.reference else question.messages)
