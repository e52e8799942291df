"""A check of a prepared folder's account that shares no code with the ledger."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")  # half characters as JSON spells them
    return path


def changes_of(prepared: Any) -> list[dict[str, Any]]:
    lines = (prepared.folder / "changes.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def assert_adds_up(prepared: Any, read: int) -> None:
    """Requires that the totals hold, and that they are those of the rows: each place once, kept or dropped.

    Templates that make several documents of a row are not for this: a document is taken for a row.
    """
    rows = prepared.about["rows"]
    entries = changes_of(prepared)
    assert all(entry["reason"] and entry["where"] and entry["step"] for entry in entries)
    listed = {
        outcome: Counter(entry["where"] for entry in entries if entry["outcome"] == outcome)
        for outcome in ("dropped", "added", "changed", "cut")
    }
    stores = [prepared.store(split) for split in ("train", "evaluation")]
    kept = Counter(store.where(number) for store in stores for number in range(len(store)))
    assert rows["read"] == read
    assert rows["read"] + rows["added"] == rows["kept"] + rows["dropped"]
    assert rows["kept"] == kept.total() == sum(split["rows"] for split in prepared.about["splits"].values())
    assert rows["dropped"] == listed["dropped"].total()
    assert rows["added"] == listed["added"].total()
    for outcome in ("changed", "cut"):
        assert rows[outcome] == sum(kept[where] for where in listed[outcome])
    places = kept + listed["dropped"]
    places.subtract(listed["added"])
    assert set(places.values()) <= {0, 1}
    assert places.total() == read
    ledger = json.loads((prepared.folder / "ledger.json").read_text(encoding="utf-8"))
    assert ledger["rows"] == rows
