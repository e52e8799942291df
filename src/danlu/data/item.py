"""A row on its way through the data stage, with what happened to it so far."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from danlu.data.records import Record, with_leaves

Mask = Callable[[Sequence[str]], list[str]]

_EXCERPT_CHARACTERS = 120
_BEFORE_CHANGE = 30
_LONGEST_VALUE = 100  # characters of personal data that an excerpt's edge may fall into


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
        # A half character, in a field that is kept beside the record, becomes JSON's own escape for it.
        return json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace")

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


def difference(before: Sequence[str], after: Sequence[str], mask: Mask = list) -> tuple[str, str]:
    """Excerpts of two versions of a row's texts, around the first place where they differ.

    Args:
        before: the texts.
        after: the texts later.
        mask: takes personal data out of texts.
    """
    for old, new in zip(before, after, strict=False):
        if old != new:
            place = next(
                (at for at, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]),
                min(len(old), len(new)),
            )
            start = max(0, place - _BEFORE_CHANGE)
            return _window(old, start, mask), _window(new, start, mask)
    return excerpt("\n".join(mask(before))), excerpt("\n".join(mask(after)))


def _window(text: str, start: int, mask: Mask) -> str:
    end = start + _EXCERPT_CHARACTERS
    # Masked with what stands around it: of a number that an edge cuts through, nothing would recognise the rest.
    left, right = max(0, start - _LONGEST_VALUE), min(len(text), end + _LONGEST_VALUE)
    wide = mask([text[left:right]])[0]
    shown = wide[start - left : len(wide) - max(0, right - end)]
    return ("…" if start else "") + shown + ("…" if end < len(text) else "")


def text_of(value: Any, mask: Mask) -> str:
    """Any row's value as text, for an excerpt.

    Args:
        value: a record, or a row as it was read.
        mask: takes personal data out of texts.
    """
    if isinstance(value, Record):
        return " | ".join(mask(value.texts()))
    texts: list[str] = []

    def note(role: str, text: str) -> str:
        texts.append(text)
        return text

    try:
        with_leaves(value, "", note)
        # Text by text first: within JSON the n of \n stands before a number as a letter does, and hides it.
        masked = iter(mask(texts))
        whole = json.dumps(with_leaves(value, "", lambda *_: next(masked)), ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return str(type(value).__name__)
    return mask([whole])[0]
