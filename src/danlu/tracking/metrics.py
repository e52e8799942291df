"""`metrics.jsonl`: one line for each optimizer step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from danlu.runs import write_text

FILE = "metrics.jsonl"


class MetricsFile:
    """Appends lines to a run's metrics, each written at once, so a stopped run keeps them all."""

    def __init__(self, folder: Path) -> None:
        self._stream = (folder / FILE).open("ab", buffering=0)

    def write(self, values: dict[str, Any]) -> None:
        """Appends one line, or nothing where the disk is full."""
        line = (json.dumps(values) + "\n").encode()
        before = self._stream.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(line):  # what does not fit any more is an error only when it is written again
                written += self._stream.write(line[written:])
        except OSError:
            self._stream.truncate(before)
            raise

    def cut(self, folder: Path, last_step: int) -> None:
        """Leaves out what was noted after a step, and goes on behind it."""
        self.close()
        cut_metrics(folder, last_step)
        self._stream = (folder / FILE).open("ab", buffering=0)

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()


def cut_metrics(folder: Path, last_step: int) -> int:
    """Leaves out what was noted after a step, and a line that was not finished; gives how many lines are left."""
    lines = [line for line in read_metrics(folder) if line["step"] <= last_step]
    write_text(folder / FILE, "".join(json.dumps(line) + "\n" for line in lines))
    return len(lines)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's metrics; one that was torn is left out."""
    path = folder / FILE
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [values for line in lines if (values := _parsed(line)) is not None]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) and "step" in values else None
