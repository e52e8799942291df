"""Flat fields of a row (`instruction`, `question`, `system`, `history`, ...) and the turns that they stand for."""

from __future__ import annotations

from typing import Any

from danlu.data.turns import Message, Messages, RowFault, read_text, read_turn, read_turns


def alpaca_questions(row: dict[str, Any]) -> Messages:
    """The turns before the answer of an Alpaca row: `input` follows `instruction` on a new line."""
    question = read_text(row["instruction"], "instruction")
    extra = read_text(row.get("input"), "input")
    return questions_of(row, "\n".join(part for part in (question, extra) if part.strip()))


def answer_turn(text: str) -> Message:
    """An answer."""
    return {"role": "assistant", "content": text}


def questions_of(row: dict[str, Any], question: str) -> Messages:
    """System text and earlier turns (`history`: pairs), then the question."""
    messages = system_turn(row)
    history = row.get("history") or []
    if not isinstance(history, list) or any(not isinstance(turn, list) or len(turn) != 2 for turn in history):
        raise RowFault("not a list of pairs: `history`")
    for asked, answered in history:
        messages.append({"role": "user", "content": read_text(asked, "history")})
        messages.append(answer_turn(read_text(answered, "history")))
    return [*messages, {"role": "user", "content": question}]


def system_turn(row: dict[str, Any]) -> Messages:
    """The system turn that stands beside the turns, if there is one."""
    system = read_text(row.get("system"), "system")
    return [{"role": "system", "content": system}] if system.strip() else []


def filled_text(row: dict[str, Any], key: str, reason: str) -> str:
    """A field's text, which must not be blank; `reason` is the fault if it is."""
    text = read_text(row[key], key)
    if not text.strip():
        raise RowFault(reason)
    return text


def read_answers(value: Any, key: str) -> Messages:
    """A chosen or rejected answer: text, one turn, or a list of turns."""
    if isinstance(value, dict):
        return [read_turn(value)]
    return read_turns(value, key) if isinstance(value, list) else [answer_turn(read_text(value, key))]
