"""What reading a file gives: rows, each with its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Unit = Literal["line", "row"]


@dataclass(frozen=True, slots=True)
class BadRow:
    """Stands in a row's place when the file has a row there that can't be used; it becomes a ledger entry.

    Attributes:
        reason: why; the part before the first ":" is a phrase that rows can be counted by.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it was read.

    Attributes:
        value: a JSON value (not yet known to be an object), or a `BadRow`.
        path: the file, as it is shown to people.
        line: 1-based line, or 1-based position in a list or table.
        unit: "line" or "row", whichever `line` counts.
    """

    value: Any
    path: str
    line: int
    unit: Unit = "line"

    @property
    def where(self) -> str:
        """`file:12`, or `file, row 12` for lists and tables."""
        return f"{self.path}:{self.line}" if self.unit == "line" else f"{self.path}, row {self.line}"

    def __reduce__(self) -> tuple[Any, ...]:
        # What dataclasses generate for frozen classes with slots is three times as slow, and rows go to workers.
        return Row, (self.value, self.path, self.line, self.unit)


def repeated_name(names: Iterable[str]) -> str | None:
    """The first name that stands a second time, if any does."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
