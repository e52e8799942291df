"""Rows that are asked rather than learnt from: a conversation up to an answer, and the reference if there is one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.data.records import FORMATS, Messages, Record, RowFault, to_record
from danlu.data.sources import BadRow, Row, Source, find_sources, read_rows
from danlu.errors import DataError, Fault

_SHOWN_FAULTS = 5
_PAIRS = [form for form in FORMATS if len(form.keys) == 2 and form.name != "preference"]
_TURNS = ("messages", "conversations")
_STANDS_IN = "-"


@dataclass(frozen=True)
class Question:
    """One thing to ask.

    Attributes:
        messages: the conversation, ending with what is asked.
        reference: the right answer; None if the row has none.
        where: its place.
        fields: the row as it was read.
        key: of its content; the same wherever it is asked.
    """

    messages: Messages
    reference: str | None
    where: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """16 hexadecimal digits of the SHA-256 of what is asked, and of the right answer."""
        text = json.dumps([self.messages, self.reference], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def conversation(self) -> Messages:
        """With the right answer at its end.

        Raises:
            ValueError: there is none.
        """
        if self.reference is None:
            raise ValueError("the question has no reference")
        role = "completion" if self.messages[0]["role"] == "prompt" else "assistant"
        return [*self.messages, {"role": role, "content": self.reference}]


Convert = Callable[[Row], Question]


def question_of(messages: Messages, where: str = "", fields: Mapping[str, Any] | None = None) -> Question:
    """The question of a conversation that ends with its answer."""
    return Question(list(messages[:-1]), messages[-1]["content"], where, fields or {})


def to_question(
    value: Any, where: str = "", *, form: str | None = None, columns: Mapping[str, str] | None = None
) -> Question:
    """A row as something to ask, in any of the forms that `to_record` knows; its answer may be missing.

    Raises:
        RowFault: it is not an object, has no known form, or asks nothing.
    """
    if not isinstance(value, dict):
        raise RowFault(f"not an object: {type(value).__name__}")
    row, filled, names = dict(value), False, columns or {}
    for key in _TURNS:
        turns = row.get(names.get(key, key))
        if isinstance(turns, list) and turns and not _is_answer(turns[-1]):
            sharegpt = isinstance(turns[-1], dict) and "from" in turns[-1]
            added = {"from": "gpt", "value": _STANDS_IN} if sharegpt else {"role": "assistant", "content": _STANDS_IN}
            row[names.get(key, key)], filled = [*turns, added], True
    if column := _missing_answer(row, form, names):
        row[column], filled = _STANDS_IN, True
    name, record = to_record(row, form=form, columns=columns)
    if name == "text":
        return Question([{"role": "prompt", "content": record.messages[0]["content"]}], None, where, value)
    messages = _with_tools(record)
    return Question(messages[:-1], None if filled else messages[-1]["content"], where, value)


def _missing_answer(row: Mapping[str, Any], form: str | None, columns: Mapping[str, str]) -> str:
    """The field that would hold the answer of a row that only asks; empty if it has one, or is of turns."""
    pairs = [one for one in _PAIRS if form in (None, one.name) and columns.get(one.keys[0], one.keys[0]) in row]
    answers = [columns.get(one.keys[1], one.keys[1]) for one in pairs]
    return answers[0] if answers and not any(str(row.get(one) or "").strip() for one in answers) else ""


def _is_answer(turn: Any) -> bool:
    role = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
    return role in ("assistant", "gpt")


def _with_tools(record: Record) -> Messages:
    first, *rest = record.messages
    return [{**first, "tools": record.tools}, *rest] if record.tools else record.messages


def converter(form: str | None = None, columns: Mapping[str, str] | None = None) -> Convert:
    """What makes a question of a row.

    Args:
        form: of the records; None: seen from the fields.
        columns: field of the form → field of the file.
    """

    def convert(row: Row) -> Question:
        return to_question(row.value, row.where, form=form, columns=columns)

    return convert


def read_questions(name: str, find: Callable[[str], Path], convert: Convert) -> list[Question]:
    """The questions of a file, in order.

    Args:
        name: as an entry of data.train.
        find: resolves a plain path.
        convert: makes a question of a row, or raises `RowFault`.

    Raises:
        DataError: the file is not there or can't be read; or for the first rows that can't be asked, by file and line.
    """
    return [question for _, question in require_questions(rows_of(find_sources(name, find)), convert)]


def require_questions(rows: Iterable[Row], convert: Convert) -> list[tuple[Row, Question]]:
    """All rows, each with what it asks.

    Raises:
        DataError: for the first rows that can't be asked, by file and line.
    """
    found: list[tuple[Row, Question]] = []
    faults: list[Fault] = []
    num_faults = 0
    for row in rows:
        try:
            if isinstance(row.value, BadRow):
                raise RowFault(row.value.reason)
            found.append((row, convert(row)))
        except RowFault as error:
            num_faults += 1
            if len(faults) < _SHOWN_FAULTS:
                faults.append(Fault(str(error), row.where, hint="mend the row, or take it out; nothing was asked"))
    if num_faults > len(faults):
        faults.append(Fault(f"and {num_faults - len(faults)} more rows can't be asked"))
    if faults:
        raise DataError(*faults)
    return found


def rows_of(sources: Sequence[Source]) -> Iterator[Row]:
    """The rows of several files."""
    for source in sources:
        yield from read_rows(source)
