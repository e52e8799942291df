"""A row on its way through the data stage, with what happened to it so far."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from danlu.data.records import Record

_EXCERPT_CHARACTERS = 120
_BEFORE_CHANGE = 30


@dataclass(slots=True)
class Item:
    """One row.

    Attributes:
        record: what it says now.
        where: the place it came from.
        source: number of its entry in `data.train` or `data.evaluation`.
        form: its record form.
        fields: fields of the file's row that the recipe asks for (a class, a customer).
        changes: what steps changed: step, before, after (excerpts).
        cut: what was cut to fit, or empty.
        parent: where the row comes from that this one was made from, or empty.
    """

    record: Record
    where: str
    source: int
    form: str
    fields: dict[str, str] = field(default_factory=dict)
    changes: list[dict[str, str]] = field(default_factory=list)
    cut: str = ""
    parent: str = ""

    def to_bytes(self) -> bytes:
        """For the spool."""
        values = [
            self.record.to_json(),
            self.where,
            self.source,
            self.form,
            self.fields,
            self.changes,
            self.cut,
            self.parent,
        ]
        return json.dumps(values, ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Item:
        """What `to_bytes` wrote."""
        record, *rest = json.loads(data)
        return cls(Record.from_json(record), *rest)


@dataclass(frozen=True, slots=True)
class Drop:
    """A row that leaves, and why.

    Attributes:
        where: its place.
        step: the step that dropped it.
        reason: the reason; the part before a colon is what rows are counted by.
        before: an excerpt of its text.
        kept: the place of the row that stands for it (duplicates), or empty.
        resembles: an excerpt of that row.
    """

    where: str
    step: str
    reason: str
    before: str = ""
    kept: str = ""
    resembles: str = ""


def excerpt(text: str) -> str:
    """The start of a text, on one line."""
    flat = " ".join(text[: 2 * _EXCERPT_CHARACTERS].split())
    return (
        flat
        if len(flat) <= _EXCERPT_CHARACTERS and len(text) <= 2 * _EXCERPT_CHARACTERS
        else (flat[:_EXCERPT_CHARACTERS] + "…")
    )


def difference(before: list[str], after: list[str]) -> tuple[str, str]:
    """Excerpts of two versions of a row's texts, around the first place where they differ."""
    for old, new in zip(before, after, strict=False):
        if old != new:
            place = next(
                (at for at, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]),
                min(len(old), len(new)),
            )
            start = max(0, place - _BEFORE_CHANGE)
            return _window(old, start), _window(new, start)
    return excerpt("\n".join(before)), excerpt("\n".join(after))


def _window(text: str, start: int) -> str:
    end = start + _EXCERPT_CHARACTERS
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")


def text_of(value: Any) -> str:
    """Any row's value as text, for an excerpt."""
    if isinstance(value, Record):
        return " | ".join(value.texts())
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return str(type(value).__name__)
