"""The record forms that rows come in, and how each becomes a list of chat messages.

A conversation is a list of `{"role": "system" | "user" | "assistant", "content": str}`. Variants stand in one
table, `FORMATS`; a row's form is the first whose keys it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Message = dict[str, str]
Messages = list[Message]

_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


class RowFault(Exception):  # noqa: N818 - becomes a ledger entry, never an error
    """A row can't become a conversation; the reason goes to the ledger."""


@dataclass(frozen=True)
class RecordFormat:
    """One record form.

    Attributes:
        name: as in messages and the ledger.
        keys: all must be in the row.
        convert: row → messages; raises `RowFault`.
    """

    name: str
    keys: tuple[str, ...]
    convert: Callable[[dict[str, Any]], Messages]


def to_messages(value: Any) -> tuple[str, Messages]:
    """The form's name and the conversation of a row.

    Raises:
        RowFault: the row is not an object, has no known form, lacks text, or does not end with an answer.
    """
    if not isinstance(value, dict):
        raise RowFault(f"not an object but {type(value).__name__}")
    for form in FORMATS:
        if all(key in value for key in form.keys):
            return form.name, _checked(form.convert(value))
    keys = [" ".join(key.split())[:40] for key in sorted(value)[:8]]
    begun = next((form for form in FORMATS if len(form.keys) > 1 and form.keys[0] in value), None)
    if begun:
        raise RowFault(f"missing answer: there is `{begun.keys[0]}` but no `{begun.keys[1]}`")
    raise RowFault(f"unknown format: keys {', '.join(keys) or '(none)'}")


def known_formats() -> str:
    """The accepted forms, for messages."""
    return "; ".join(f"{form.name} ({', '.join(form.keys)})" for form in FORMATS)


def _text(value: Any, key: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowFault(f"`{key}` is not text but {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowFault(f"`{key}` holds half a character (a lone surrogate) at position {error.start}") from error
    return value


def _pair(question_key: str, answer_key: str) -> Callable[[dict[str, Any]], Messages]:
    def convert(row: dict[str, Any]) -> Messages:
        return _conversation(row, _text(row[question_key], question_key), _text(row[answer_key], answer_key))

    return convert


def _alpaca(row: dict[str, Any]) -> Messages:
    question = _text(row["instruction"], "instruction")
    extra = _text(row.get("input"), "input")
    asked = "\n".join(part for part in (question, extra) if part.strip())
    return _conversation(row, asked, _text(row["output"], "output"))


def _conversation(row: dict[str, Any], question: str, answer: str) -> Messages:
    """System text and earlier turns (`history`: pairs), then the question and its answer."""
    messages: Messages = []
    system = _text(row.get("system"), "system")
    if system.strip():
        messages.append({"role": "system", "content": system})
    history = row.get("history") or []
    if not isinstance(history, list):
        raise RowFault("`history` is not a list of pairs")
    for turn in history:
        if not isinstance(turn, list) or len(turn) != 2:
            raise RowFault("`history` is not a list of [question, answer] pairs")
        messages.append({"role": "user", "content": _text(turn[0], "history")})
        messages.append({"role": "assistant", "content": _text(turn[1], "history")})
    return [*messages, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _sharegpt(row: dict[str, Any]) -> Messages:
    return _turns(row, "conversations", "from", "value")


def _openai(row: dict[str, Any]) -> Messages:
    return _turns(row, "messages", "role", "content")


def _turns(row: dict[str, Any], key: str, role_key: str, text_key: str) -> Messages:
    turns = row[key]
    if not isinstance(turns, list):
        raise RowFault(f"`{key}` is not a list")
    if turns and isinstance(turns[0], dict) and role_key not in turns[0]:
        role_key, text_key = ("role", "content") if "role" in turns[0] else ("from", "value")
    messages: Messages = []
    system = _text(row.get("system"), "system")
    if system.strip():
        messages.append({"role": "system", "content": system})
    for turn in turns:
        if not isinstance(turn, dict) or role_key not in turn or text_key not in turn:
            raise RowFault(f"a turn lacks `{role_key}` or `{text_key}`")
        role = _SHAREGPT_ROLES.get(str(turn[role_key]))
        if role is None:
            raise RowFault(f"unknown role `{turn[role_key]}`")
        messages.append({"role": role, "content": _text(turn[text_key], text_key)})
    return messages


def _checked(messages: Messages) -> Messages:
    """Requires [system,] user, assistant, ..., ending with an answer, no text empty."""
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    if not any(message["role"] == "assistant" for message in turns):
        raise RowFault("missing answer")
    for index, message in enumerate(turns):
        expected = "user" if index % 2 == 0 else "assistant"
        if message["role"] != expected:
            raise RowFault(f"turn {index + 1} is {message['role']}, expected {expected}")
        if not message["content"].strip():
            raise RowFault("missing answer" if expected == "assistant" else "missing question")
    if turns[-1]["role"] != "assistant":
        raise RowFault("the last turn is a question without an answer")
    return messages


FORMATS = (
    RecordFormat("messages", ("messages",), _openai),
    RecordFormat("sharegpt", ("conversations",), _sharegpt),
    RecordFormat("alpaca", ("instruction", "output"), _alpaca),
    RecordFormat("instruction/response", ("instruction", "response"), _pair("instruction", "response")),
    RecordFormat("question/answer", ("question", "answer"), _pair("question", "answer")),
    RecordFormat("input_text/target_text", ("input_text", "target_text"), _pair("input_text", "target_text")),
)
