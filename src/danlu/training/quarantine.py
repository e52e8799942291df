"""`quarantine.jsonl`: the steps of a run that were set aside, each with its rows and what was wrong."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.runs import write_text

FILE = "quarantine.jsonl"


def suspects(losses: Sequence[float], most: float) -> list[int]:
    """Places of the rows that a step is put down to: those whose own loss is not finite, else those far above.

    Args:
        losses: of each row alone.
        most: the highest that is usual.
    """
    broken = [place for place, loss in enumerate(losses) if not math.isfinite(loss)]
    return broken or [place for place, loss in enumerate(losses) if loss > most]


def set_aside(folder: Path, entry: dict[str, Any]) -> None:
    """Appends a step, synced: what it says is needed when the run does not end well."""
    with (folder / FILE).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_quarantine(folder: Path) -> list[dict[str, Any]]:
    """All whole lines."""
    path = folder / FILE
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]  # a line that was cut off has no end


def cut_quarantine(folder: Path, last_step: int) -> None:
    """Leaves out what was noted after a step: it is judged anew."""
    if (folder / FILE).is_file():
        lines = [json.dumps(one, ensure_ascii=False) for one in read_quarantine(folder) if one["step"] <= last_step]
        write_text(folder / FILE, "".join(line + "\n" for line in lines))
