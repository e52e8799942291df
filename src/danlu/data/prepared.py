"""A prepared folder: labelled documents, held-out conversations, the ledger."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.data.records import Messages, Record
from danlu.data.report import REPORT
from danlu.data.store import Store

if TYPE_CHECKING:
    from danlu.data.passes import Int64, Rows

TRAIN, EVALUATION = "train", "evaluation"
EVALUATION_ROWS, PROBE_ROWS = "evaluation.rows.jsonl", "probe.rows.jsonl"
LEDGER, SUMMARY = "ledger.json", "summary.txt"
_NUM_PROBE_ROWS = 20


def read_conversations(path: Path) -> list[Messages]:
    """The conversations of a rows file, each ending with its reference answer; none if there is no file.

    The tools of a row stand as `tools` in its first message, where `danlu.data.template.render` finds them.
    """
    # Not splitlines(): answers may hold U+2028 and the like, which JSON leaves as they are.
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [conversation_of(json.loads(line)) for line in lines if line]


def conversation_of(row: dict[str, Any]) -> Messages:
    """The messages of a record's JSON, its tools in the first of them."""
    first, *rest = row["messages"]
    return [{**first, "tools": row["tools"]}, *rest] if row.get("tools") else row["messages"]


@dataclass(frozen=True)
class Prepared:
    """A prepared folder.

    Attributes:
        folder: where it is.
        about: its manifest.
    """

    folder: Path
    about: dict[str, Any]

    def store(self, name: str) -> Store:
        """The documents of `train` or `evaluation`."""
        return Store(self.folder, name)

    def evaluation_rows(self) -> list[Messages]:
        """The held-out conversations, each ending with its reference answer."""
        return read_conversations(self.folder / EVALUATION_ROWS)

    def probe_rows(self) -> list[Messages]:
        """Up to 20 held-out conversations spread evenly, or training ones if none is held out."""
        return read_conversations(self.folder / PROBE_ROWS)

    def describe(self) -> str:
        """The summary for people."""
        return (self.folder / SUMMARY).read_text(encoding="utf-8").rstrip()

    def summary(self) -> dict[str, Any]:
        """The keys that `danlu data --json` promises."""
        return {
            "prepared_folder": str(self.folder),
            "rows": self.about["rows"],
            "tokens": self.about["tokens"],
            "splits": self.about["splits"],
            "notes": self.about["notes"],
            "report": str(self.folder / REPORT),
        }


def write_conversations(folder: Path, rows: Rows, numbers: Int64, held: Rows, held_numbers: Int64) -> None:
    """Writes the rows that judge, and the probes: up to 20 of them, or of those that train, spread evenly."""
    _write(folder / EVALUATION_ROWS, held, held_numbers)
    source, places = (held, held_numbers) if len(held_numbers) else (rows, numbers)
    count = min(_NUM_PROBE_ROWS, len(places))
    _write(folder / PROBE_ROWS, source, places[[number * len(places) // count for number in range(count)]])


def _write(path: Path, rows: Rows, numbers: Int64) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for number in numbers.tolist():
            item = rows.item(number)
            value = {"where": item.where, **as_question(item.record).to_json()}
            stream.write(json.dumps(value, ensure_ascii=False) + "\n")


def as_question(record: Record) -> Record:
    """A row that can be asked and answered: plain text becomes its first half and the rest."""
    if record.messages[0]["role"] != "text":
        return record
    text = record.messages[0]["content"]
    half = (len(text) + 1) // 2
    return Record([{"role": "prompt", "content": text[:half]}, {"role": "completion", "content": text[half:]}])
