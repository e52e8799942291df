"""The rows that a run was trained on, read again from where its recipe took them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.data.ledger import CHANGES
from danlu.data.prepared import EVALUATION_ROWS, conversation_of
from danlu.data.questions import Question, question_of
from danlu.data.records import RowFault, to_record
from danlu.data.sources import BadRow, Row, Source, find_sources, fingerprint, read_rows
from danlu.errors import DanluError
from danlu.evaluation.overlap import Known
from danlu.recipe.data_schema import SourceSection
from danlu.recipe.load import LoadedRecipe
from danlu.runs import MANIFEST
from danlu.training.trained import TrainedRun


@dataclass(frozen=True)
class _Account:
    """What became of a run's rows.

    Attributes:
        untrained: places of those that were held out or dropped.
        inputs: what each file held then, by the name that it had; empty if that is not known any more.
        missing: rows that were dropped and can't be told apart any more.
    """

    untrained: frozenset[str]
    inputs: dict[str, str]
    missing: int


def trained_rows(run: TrainedRun, loaded: LoadedRecipe) -> tuple[list[Known], list[str]]:
    """The rows that were trained on, as they were before cleaning and masking, and what can't be known, in words.

    Rows that were held out or dropped are left out.
    """
    account = _account(run)
    known: list[Known] = []
    unread: dict[str, str] = {}
    for entry in run.recipe.data.train:
        section = entry if isinstance(entry, SourceSection) else SourceSection(path=entry)
        try:
            for source in find_sources(section.path, loaded.find):
                known += _known(source, section, account)
        except DanluError as error:
            unread[section.path] = error.faults[0].what
    return known, _notes(unread, account.missing)


def _notes(unread: dict[str, str], missing: int) -> list[str]:
    notes = []
    if unread:
        files = "; ".join(f"{path}: {what}" for path, what in unread.items())
        notes.append(
            "evaluation files may hold rows that were trained on, for training files can't be read any more "
            f"({files}); put them back where the recipe names them, and evaluate again"
        )
    if missing:
        notes.append(
            f"{missing:,} rows that were dropped before training count as trained on here: the account that names them "
            "is gone from DANLU_HOME/prepared"
        )
    return notes


def _account(run: TrainedRun) -> _Account:
    result = run.about.get("result", {})
    prepared = Path(result.get("prepared_folder") or run.folder)
    files = [path for path in (prepared / CHANGES, *run.folder.glob("changes*.jsonl")) if path.is_file()]
    held = {str(row.get("where", "")) for row in _lines(run.folder / EVALUATION_ROWS)}
    dropped = {where for path in files for where in _dropped(path)}
    about = prepared / MANIFEST
    inputs = json.loads(about.read_text(encoding="utf-8")).get("inputs", {}) if about.is_file() else {}
    missing = 0 if files else result.get("rows", {}).get("dropped", 0)
    return _Account(frozenset(held | dropped), inputs, missing)


def _dropped(path: Path) -> Iterator[str]:
    with contextlib.suppress(ValueError):  # the last line of a part that was killed
        yield from (line["where"] for line in _lines(path) if line["outcome"] == "dropped")


def _known(source: Source, section: SourceSection, account: _Account) -> Iterator[Known]:
    name = _name_then(source, account.inputs)
    for row in read_rows(source):
        if isinstance(row.value, BadRow) or Row(None, name, row.line, row.unit).where in account.untrained:
            continue
        try:
            _, record = to_record(row.value, form=section.format, columns=section.columns)
        except RowFault:
            continue  # it was dropped
        yield Known(record, row.where)


def _name_then(source: Source, inputs: dict[str, str]) -> str:
    """What a file was called when it was trained on: paths are seen from where a command is given."""
    content = fingerprint(source) if inputs else ""
    if inputs.get(source.shown) == content:
        return source.shown
    return next((name for name, held in inputs.items() if held == content), source.shown)


def held_questions(run: TrainedRun) -> list[Question]:
    """The rows that were held out, each with its place."""
    rows = _lines(run.folder / EVALUATION_ROWS)
    return [question_of(conversation_of(row), str(row.get("where", ""))) for row in rows]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; none if it is not there."""
    # Not splitlines(): texts may hold U+2028 and the like, which JSON leaves as they are.
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return (json.loads(line) for line in lines if line)
