"""Conversations in a line, and the one row of them that is labelled or refused."""

from __future__ import annotations

from typing import Any

from danlu.data.labels import ANY_LENGTH, Labelled, label_records
from danlu.data.records import Messages, Record, RowFault


def talk(*texts: str, system: str | None = None) -> Messages:
    """Questions and answers in turn."""
    roles = ["user", "assistant"] * len(texts)
    turns: Messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


def labelled(tokenizer: Any, record: Record, max_tokens: int = ANY_LENGTH, too_long: str = "drop") -> Labelled:
    """The row, which is kept."""
    result = label_records(tokenizer, [record], max_tokens, too_long)[0]
    assert isinstance(result, Labelled), result
    return result


def fault(tokenizer: Any, record: Record, max_tokens: int = ANY_LENGTH, too_long: str = "drop") -> str:
    """Why the row is not kept."""
    result = label_records(tokenizer, [record], max_tokens, too_long)[0]
    assert isinstance(result, RowFault), result
    return str(result)
