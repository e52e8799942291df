"""The record forms that rows come in, and how each becomes one kind of record.

A conversation is a list of messages (`danlu.data.turns`). Variants stand in one table, `FORMATS`; a row's form is
the first whose fields it has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from danlu.data.fields import alpaca_questions, answer_turn, filled_text, questions_of, read_answers, system_turn
from danlu.data.preference import read_pair
from danlu.data.turns import Message, Messages, RowFault, read_text, read_tools, read_turns, require_order

__all__ = [
    "FORMATS",
    "Message",
    "Messages",
    "Record",
    "RecordFormat",
    "RowFault",
    "known_formats",
    "to_record",
    "with_leaves",
]

TextChange = Callable[[str, str], str]

_WITHOUT_TEMPLATE = ("text", "prompt")
_TEXT_KEYS = ("text",)
_ABOUT_TEXT = frozenset({"text", "id", "uuid", "meta", "metadata", "source", "url", "title", "timestamp", "date"})


@dataclass(frozen=True)
class Record:
    """One row as Danlu understands it, whatever form it came in.

    Attributes:
        messages: the turns: `role` (system, user, assistant, tool; `text` alone for plain text; `prompt` and
            `completion` for text that continues without a chat template) and `content`; an answer may have
            `reasoning_content`, `tool_calls` and `train: False`.
        tools: function schemas that the model is offered.
        rejected: in a preference pair, the answer that is not wanted in place of the last one; else empty.
    """

    messages: Messages
    tools: list[dict[str, Any]] = field(default_factory=list)
    rejected: Messages = field(default_factory=list)

    def with_texts(self, change: TextChange) -> Record:
        """The record with `change(role, text)` in place of each text: contents, reasoning, tool arguments."""
        return Record(
            [_message_with_texts(message, change) for message in self.messages],
            self.tools,
            [_message_with_texts(message, change) for message in self.rejected],
        )

    def texts(self, *roles: str) -> list[str]:
        """All texts in order, or those of some roles."""
        found: list[str] = []

        def note(role: str, text: str) -> str:
            if not roles or role in roles:
                found.append(text)
            return text

        self.with_texts(note)
        return found

    def to_json(self) -> dict[str, Any]:
        """A JSON object from which `from_json` makes the equal record."""
        return {key: value for key, value in vars(self).items() if value}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Record:
        """The record that `to_json` wrote."""
        return cls(value["messages"], value.get("tools", []), value.get("rejected", []))


def _message_with_texts(message: Message, change: TextChange) -> Message:
    role = message["role"]
    changed = dict(message)
    for key in ("reasoning_content", "content"):
        if isinstance(message.get(key), str):
            changed[key] = change(role, message[key])
    if message.get("tool_calls"):
        changed["tool_calls"] = [
            {
                **call,
                "function": {**call["function"], "arguments": with_leaves(call["function"]["arguments"], role, change)},
            }
            for call in message["tool_calls"]
        ]
    return changed


def with_leaves(value: Any, role: str, change: TextChange) -> Any:
    """A JSON value with its texts changed, keys left as they are."""
    if isinstance(value, str):
        return change(role, value)
    if isinstance(value, list):
        return [with_leaves(item, role, change) for item in value]
    if isinstance(value, dict):
        return {key: with_leaves(item, role, change) for key, item in value.items()}
    return value


@dataclass(frozen=True)
class RecordFormat:
    """One record form.

    Attributes:
        name: as in messages and the ledger.
        keys: all must be in the row.
        convert: row → record; raises `RowFault`.
    """

    name: str
    keys: tuple[str, ...]
    convert: Callable[[dict[str, Any]], Record]


def to_record(value: Any, *, form: str | None = None, columns: Mapping[str, str] | None = None) -> tuple[str, Record]:
    """The form's name and the record of a row.

    Args:
        value: a row of a file.
        form: name of the form that the row has; None: the first whose fields it has.
        columns: field of the form → field of the file. Numbers and booleans in these fields become text.

    Raises:
        RowFault: the row is not an object, has no known form, lacks text, or does not end with an answer.
    """
    if not isinstance(value, dict):
        raise RowFault(f"not an object: {type(value).__name__}")
    row = {**value, **_renamed(value, columns)} if columns else value
    chosen = _BY_NAME[form] if form else _detect(row, columns)
    if form:
        missing = next((key for key in chosen.keys if key not in row), None)
        if missing:
            raise RowFault(_lacks(missing, row))
    record = chosen.convert(row)
    if record.messages and record.messages[0]["role"] in _WITHOUT_TEMPLATE:
        return chosen.name, record
    require_order(record.messages)
    return chosen.name, record


def _lacks(name: str, row: Mapping[str, Any]) -> str:
    there = ", ".join(" ".join(str(key).split())[:40] for key in list(row)[:8])
    return f"missing field: `{name}`; the row has {there or 'none'}"


def _renamed(value: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    renamed = {}
    for field_name, column in columns.items():
        if column not in value:
            raise RowFault(_lacks(column, value))
        cell = value[column]
        if isinstance(cell, float) and math.isnan(cell):
            cell = None  # how Parquet files from pandas write an empty cell
        renamed[field_name] = json.dumps(cell) if isinstance(cell, (bool, int, float)) else cell
    return renamed


def _detect(row: dict[str, Any], columns: Mapping[str, str] | None) -> RecordFormat:
    """The first form whose fields are named by `columns`, else the first whose fields the row has."""
    for names in (columns or {}, row):
        for form in FORMATS:
            if form.keys != _TEXT_KEYS and all(key in names for key in form.keys):
                return form
    # A row with a label beside its text is a task, not running text; it is read as text only if the recipe says so.
    if "text" in (columns or {}) or ("text" in row and _ABOUT_TEXT.issuperset(row)):
        return _BY_NAME["text"]
    begun = next((form for form in FORMATS if len(form.keys) == 2 and form.keys[0] in row), None)
    if begun:
        raise RowFault(f"missing answer: there is `{begun.keys[0]}` but no `{begun.keys[1]}`")
    keys = [" ".join(str(key).split())[:40] for key in sorted(row, key=str)[:8]]
    raise RowFault(f"unknown format: keys {', '.join(keys) or '(none)'}")


def known_formats() -> str:
    """The accepted forms, for messages."""
    return "; ".join(f"{form.name} ({', '.join(form.keys)})" for form in FORMATS)


def _pair(question_key: str, answer_key: str) -> Callable[[dict[str, Any]], Record]:
    def convert(row: dict[str, Any]) -> Record:
        messages = questions_of(row, read_text(row[question_key], question_key))
        return Record([*messages, answer_turn(read_text(row[answer_key], answer_key))], read_tools(row.get("tools")))

    return convert


def _alpaca(row: dict[str, Any]) -> Record:
    return Record(
        [*alpaca_questions(row), answer_turn(read_text(row["output"], "output"))], read_tools(row.get("tools"))
    )


def _conversation(key: str) -> Callable[[dict[str, Any]], Record]:
    def convert(row: dict[str, Any]) -> Record:
        return Record([*system_turn(row), *read_turns(row[key], key)], _tools(row))

    return convert


def _tools(row: dict[str, Any]) -> list[dict[str, Any]]:
    return read_tools(row.get("tools")) or read_tools(row.get("functions"), "functions")


def _text(row: dict[str, Any]) -> Record:
    return Record([{"role": "text", "content": filled_text(row, "text", "missing text")}])


def _prompt_completion(row: dict[str, Any]) -> Record:
    """Texts are continued without a chat template, and lists of turns are a conversation, both as in TRL."""
    if not isinstance(row["prompt"], list):
        prompt = {"role": "prompt", "content": filled_text(row, "prompt", "missing question")}
        return Record([prompt, {"role": "completion", "content": filled_text(row, "completion", "missing answer")}])
    prompts = [
        {**message, "train": False} if message["role"] == "assistant" else message
        for message in read_turns(row["prompt"], "prompt")
    ]
    return Record([*system_turn(row), *prompts, *read_answers(row["completion"], "completion")], _tools(row))


def _preference(row: dict[str, Any]) -> Record:
    questions, chosen, rejected = read_pair(row)
    return Record([*questions, *chosen], _tools(row), rejected)


FORMATS = (
    RecordFormat("preference", ("chosen", "rejected"), _preference),
    RecordFormat("messages", ("messages",), _conversation("messages")),
    RecordFormat("sharegpt", ("conversations",), _conversation("conversations")),
    RecordFormat("alpaca", ("instruction", "output"), _alpaca),
    RecordFormat("instruction/response", ("instruction", "response"), _pair("instruction", "response")),
    RecordFormat("question/answer", ("question", "answer"), _pair("question", "answer")),
    RecordFormat("input_text/target_text", ("input_text", "target_text"), _pair("input_text", "target_text")),
    RecordFormat("prompt/completion", ("prompt", "completion"), _prompt_completion),
    RecordFormat("text", _TEXT_KEYS, _text),
)
_BY_NAME = {form.name: form for form in FORMATS}
