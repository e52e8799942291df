"""The rows that a run was trained on, read again from where its recipe took them."""

from __future__ import annotations

import json
from typing import Any

from danlu.data.prepared import EVALUATION_ROWS, conversation_of
from danlu.data.questions import Question, question_of
from danlu.data.records import RowFault, to_record
from danlu.data.sources import BadRow, find_sources, read_rows
from danlu.errors import DanluError
from danlu.evaluation.overlap import Known
from danlu.recipe.data_schema import SourceSection
from danlu.recipe.load import LoadedRecipe
from danlu.training.trained import TrainedRun


def trained_rows(run: TrainedRun, loaded: LoadedRecipe) -> tuple[list[Known], list[str]]:
    """The training rows, as they were before cleaning and masking, and what could not be read, in words.

    Rows that were held out are left out. Rows that cleaning dropped are not told apart, and count as trained.
    """
    held = {str(row.get("where", "")) for row in _held_rows(run)}
    known: list[Known] = []
    notes: list[str] = []
    for entry in run.recipe.data.train:
        section = entry if isinstance(entry, SourceSection) else SourceSection(path=entry)
        try:
            known += _known(section, loaded, held)
        except DanluError as error:
            fault = error.faults[0]
            notes.append(f"not compared with the training rows of {section.path}: {fault.what}")
    return known, notes


def _known(section: SourceSection, loaded: LoadedRecipe, held: set[str]) -> list[Known]:
    found = []
    for source in find_sources(section.path, loaded.find):
        for row in read_rows(source):
            if row.where in held or isinstance(row.value, BadRow):
                continue
            try:
                _, record = to_record(row.value, form=section.format, columns=section.columns)
            except RowFault:
                continue
            found.append(Known(record, row.where))
    return found


def held_questions(run: TrainedRun) -> list[Question]:
    """The rows that were held out, each with its place."""
    return [question_of(conversation_of(row), str(row.get("where", ""))) for row in _held_rows(run)]


def _held_rows(run: TrainedRun) -> list[dict[str, Any]]:
    path = run.folder / EVALUATION_ROWS
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines if line]
