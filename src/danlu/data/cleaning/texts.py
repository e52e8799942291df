"""How a step changes the texts of a record, and which texts it leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from danlu.data.records import Messages, Record, RowFault, TextChange

QUESTION_ROLES = ("user", "prompt")
ANSWER_ROLES = ("assistant", "completion", "text")


def change_texts(
    record: Record,
    step: str,
    change: Callable[[str], str],
    *,
    roles: Collection[str] | None = None,
    spare_json: bool = False,
) -> Record:
    """The record with `change(text)` in place of each text; the same object if no text changed.

    Args:
        record: the row.
        step: the step's name, for the reason.
        change: text → text.
        roles: turns that it is done to; None: all.
        spare_json: leave tool-call arguments and tool results alone. Spaces and angle brackets have a meaning there.

    Raises:
        RowFault: a text that was not blank became blank.
    """
    results: dict[str, str] = {}

    def changed(role: str, text: str) -> str:
        if (roles is not None and role not in roles) or (spare_json and role == "tool"):
            return text
        if text not in results:
            results[text] = change(text)
            if text.strip() and not results[text].strip():
                raise RowFault(f"empty after {step}")
        return results[text]

    if not _changes_a_content(record, changed):
        # Most rows end here, without a copy of anything.
        if spare_json or not _has_calls(record):
            return record
        done = record.with_texts(changed)
        return done if done != record else record
    if not spare_json:
        return record.with_texts(changed)
    bare = Record(_without_calls(record.messages), record.tools, _without_calls(record.rejected)).with_texts(changed)
    return Record(
        _with_calls_of(record.messages, bare.messages), record.tools, _with_calls_of(record.rejected, bare.rejected)
    )


def _changes_a_content(record: Record, changed: TextChange) -> bool:
    found = False
    for message in [*record.messages, *record.rejected]:
        for key in ("reasoning_content", "content"):
            text = message.get(key)
            if isinstance(text, str) and changed(message["role"], text) != text:
                found = True
    return found


def _has_calls(record: Record) -> bool:
    return any("tool_calls" in message for message in [*record.messages, *record.rejected])


def answers(record: Record) -> list[str]:
    """The answers that are trained: contents of the record's own turns, not those of a rejected answer.

    A turn with `train: False`, and a turn that only calls tools, is none.
    """
    return [
        message["content"]
        for message in record.messages
        if message["role"] in ANSWER_ROLES and message.get("train") is not False and _has_text(message)
    ]


def _has_text(message: dict[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, str) and bool(content.strip() or not message.get("tool_calls"))


def _without_calls(messages: Messages) -> Messages:
    if not any("tool_calls" in message for message in messages):
        return messages
    return [{key: value for key, value in message.items() if key != "tool_calls"} for message in messages]


def _with_calls_of(before: Messages, after: Messages) -> Messages:
    """Each message after, with the calls, and the order of keys, that it had before."""
    return [
        {key: new.get(key, value) for key, value in old.items()} if "tool_calls" in old else new
        for old, new in zip(before, after, strict=True)
    ]
