"""The ledger: every row read ends as kept, changed, cut or dropped, with its reason; totals add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from danlu.data.records import known_formats
from danlu.data.sources import Row
from danlu.errors import DataError, Fault

_SHOWN_FAULTS = 5


@dataclass
class Ledger:
    """Counts and entries of one preparation.

    Attributes:
        read: rows read from the files.
        added: rows made here (augmented, oversampled, replayed).
        kept: rows that became documents; changed and cut ones are among them.
        entries: one for each row that is not simply kept: where, outcome, reason.
        formats: rows by record form.
    """

    read: int = 0
    added: int = 0
    kept: int = 0
    entries: list[dict[str, str]] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)

    def keep(self, form: str) -> None:
        """Counts a row as kept."""
        self.kept += 1
        self.formats[form] += 1

    def drop(self, row: Row, reason: str) -> None:
        """Writes a row down as dropped."""
        self.entries.append({"where": row.where, "outcome": "dropped", "reason": reason})

    @property
    def dropped(self) -> int:
        """Number of dropped rows."""
        return sum(entry["outcome"] == "dropped" for entry in self.entries)

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
            "changed": 0,
            "cut": 0,
        }
        assert totals["read"] + totals["added"] == totals["kept"] + totals["dropped"], totals
        return totals

    def check(self, max_dropped_share: float) -> None:
        """Stops the run if nothing is left or too much was dropped.

        Raises:
            DataError: with the first dropped rows and their reasons.
        """
        total = self.read + self.added
        if self.kept and self.dropped / total <= max_dropped_share:
            return
        faults = [Fault(entry["reason"], entry["where"]) for entry in self.entries[:_SHOWN_FAULTS]]
        unknown = any(entry["reason"].startswith("unknown format") for entry in self.entries)
        faults.append(
            Fault(
                f"{self.dropped} of {total} rows would be dropped ({self.dropped / max(total, 1):.1%})"
                + (", all of them" if not self.kept else "")
                + self._reasons(),
                "data.train, data.evaluation",
                known_formats() if unknown else f"at most data.max_dropped_share = {max_dropped_share:g}",
                "mend the rows listed above, or raise data.max_dropped_share if they are not wanted",
            )
        )
        raise DataError(*faults)

    def _reasons(self) -> str:
        counts = Counter(entry["reason"].split(":")[0] for entry in self.entries)
        return ": " + ", ".join(f"{count} × {reason}" for reason, count in counts.most_common(4))

    def to_json(self) -> dict[str, Any]:
        """The ledger as written to `ledger.json`."""
        return {"rows": self.rows(), "formats": dict(self.formats), "entries": self.entries}
