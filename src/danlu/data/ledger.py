"""The ledger: every row read or added ends as kept or dropped, with its reason; totals add up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from danlu.data.item import Drop, Item
from danlu.data.records import known_formats
from danlu.errors import DataError, Fault

CHANGES = "changes.jsonl"
_SHOWN_FAULTS = 5
_MEND = "mend the rows listed above, or raise data.max_dropped_share if they are not wanted"
_NAME_FIELDS = (
    "say which field is which: data.train: [{path: FILE, columns: {question: YOUR FIELD, answer: YOUR FIELD}}]"
)
_EXAMPLES = 5


@dataclass
class Step:
    """What one step did.

    Attributes:
        name: as in the recipe.
        rows_in: rows that came to it.
        changed: rows that it changed.
        dropped: rows that it dropped.
        seconds: processor time, over all processes.
    """

    name: str
    rows_in: int = 0
    changed: int = 0
    dropped: int = 0
    seconds: float = 0.0

    def to_json(self, timed: bool = True) -> dict[str, Any]:
        """The counts; without time they are the same each time."""
        counts = {"step": self.name, "rows_in": self.rows_in, "changed": self.changed, "dropped": self.dropped}
        return {**counts, "seconds": round(self.seconds, 3)} if timed else counts


@dataclass
class _Reason:
    count: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)


class Ledger:
    """Counts, and a file with an entry for each row that was dropped, changed, cut or added.

    Args:
        folder: where `changes.jsonl` is written.

    Attributes:
        read: rows read from the files.
        added: rows made here (augmented, repeated).
        kept: rows that became documents; changed and cut ones are among them.
        changed: kept rows that a step changed.
        cut: kept rows that were cut to fit.
        dropped: rows dropped.
        unasked: those of them that the recipe does not leave out by number (as undersampling does).
        formats: kept rows by record form.
        writings: labelled rows by writing.
        files: rows read by file.
        masked: items of personal data by kind.
        steps: in the order of work.
    """

    def __init__(self, folder: Path) -> None:
        # A half character in a row that was read becomes JSON's own escape for it.
        self._file = (folder / CHANGES).open("w", encoding="utf-8", errors="backslashreplace")
        self.read = self.added = self.kept = self.changed = self.cut = self.dropped = self.unasked = 0
        self.formats: Counter[str] = Counter()
        self.writings: Counter[str] = Counter()
        self.files: Counter[str] = Counter()
        self.masked: Counter[str] = Counter()
        self.steps: dict[str, Step] = {}
        self._reasons: dict[tuple[str, str, str], _Reason] = {}
        self._first_faults: list[Fault] = []

    def step(self, name: str) -> Step:
        """The counts of a step, begun at its first mention."""
        return self.steps.setdefault(name, Step(name))

    def take(self, steps: Iterable[Step], drops: Iterable[Drop], writings: Counter[str], masked: Counter[str]) -> None:
        """Adds what a worker did to some rows: counts of the steps, and the rows that they dropped."""
        for done in steps:
            step = self.step(done.name)
            step.rows_in += done.rows_in
            step.changed += done.changed
            step.dropped += done.dropped
            step.seconds += done.seconds
        for drop in drops:
            self.drop(drop)
        self.writings.update(writings)
        self.masked.update(masked)

    def drop(self, drop: Drop, unasked: bool = True) -> None:
        """Writes a row down as dropped; `unasked` is false where the recipe wants fewer rows."""
        self.dropped += 1
        self.unasked += unasked
        if unasked and len(self._first_faults) < _SHOWN_FAULTS:
            self._first_faults.append(Fault(drop.reason, drop.where))
        entry = {"where": drop.where, "before": drop.before, "kept": drop.kept, "after": drop.resembles}
        self._note("dropped", drop.step, drop.reason, entry)

    def keep_plain(self, form: str, count: int) -> None:
        """Counts rows as kept to which nothing was done."""
        self.kept += count
        self.formats[form] += count

    def keep(self, item: Item, count: int) -> None:
        """Counts a row as kept, `count` times if it is repeated, and writes down what was done to it."""
        self.keep_plain(item.form, count)
        self.changed += bool(item.changes) * count
        self.cut += bool(item.cut) * count
        for change in item.changes:
            entry = {"where": item.where, "before": change["before"], "after": change["after"]}
            self._note("changed", change["step"], change.get("reason", change["step"]), entry)
        if item.cut:
            self._note("cut", "labels", f"cut to fit: {item.cut}", {"where": item.where})

    def add(self, step: str, where: str, parent: str, before: str = "", after: str = "") -> None:
        """Writes down a row that was made here; it has still to be kept or dropped."""
        self.added += 1
        self._note("added", step, step, {"where": where, "parent": parent, "before": before, "after": after})

    def _note(self, outcome: str, step: str, reason: str, entry: dict[str, str]) -> None:
        line = {"outcome": outcome, "step": step, "reason": reason, **{k: v for k, v in entry.items() if v}}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        kind = self._reasons.setdefault((outcome, step, reason.split(":")[0]), _Reason())
        kind.count += 1
        if len(kind.examples) < _EXAMPLES:
            kind.examples.append({"reason": reason, **entry})

    def rows(self) -> dict[str, int]:
        """The totals, in the form every command prints.

        Raises:
            AssertionError: they do not add up, which is a defect of Danlu's.
        """
        totals = {
            "read": self.read,
            "added": self.added,
            "kept": self.kept,
            "dropped": self.dropped,
            "changed": self.changed,
            "cut": self.cut,
        }
        assert totals["read"] + totals["added"] == totals["kept"] + totals["dropped"], totals
        return totals

    def check(self, rows_left: int, max_dropped_share: float, purpose: str = "train on") -> None:
        """Stops the run if nothing is left or too much was dropped.

        Args:
            rows_left: rows not dropped so far.
            max_dropped_share: of all rows, those left out on request aside.
            purpose: what they are for.

        Raises:
            DataError: with the first dropped rows and their reasons.
        """
        total = self.read + self.added
        if rows_left and self.unasked / total <= max_dropped_share:
            return
        unknown = any(fault.what.startswith("unknown format") for fault in self._first_faults)
        raise DataError(
            *self._first_faults,
            Fault(
                self._too_many(total, "" if rows_left else f"none is left to {purpose}"),
                "data.train, data.evaluation",
                known_formats() if unknown else f"at most data.max_dropped_share = {max_dropped_share:g}",
                _NAME_FIELDS if unknown else _MEND,
            ),
        )

    def _too_many(self, total: int, none_left: str) -> str:
        if not total:  # rows are passed over that were counted by another process, or before
            return f"of the rows {none_left}"
        counts = Counter(
            {reason: kind.count for (outcome, _, reason), kind in self._reasons.items() if outcome == "dropped"}
        )
        reasons = ", ".join(f"{count} × {reason}" for reason, count in counts.most_common(4))
        dropped = f"{self.unasked} of {total} rows would be dropped ({self.unasked / total:.1%})"
        return " and ".join(part for part in (dropped, none_left) if part) + f": {reasons}"

    def reasons(self) -> list[dict[str, Any]]:
        """Outcome, step, reason, count and some examples of each kind of entry."""
        return [
            {"outcome": outcome, "step": step, "reason": reason, "count": kind.count, "examples": kind.examples}
            for (outcome, step, reason), kind in self._reasons.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """The ledger as written to `ledger.json`; the single rows are in `changes.jsonl`."""
        return {
            "rows": self.rows(),
            "formats": dict(self.formats),
            "steps": [step.to_json(timed=False) for step in self.steps.values()],
            "reasons": self.reasons(),
            "masked": dict(self.masked),
        }

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
