"""`metrics.jsonl`: one line for each optimizer step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = "metrics.jsonl"


class MetricsFile:
    """Appends lines to a run's metrics; each is flushed, so a stopped run keeps them all."""

    def __init__(self, folder: Path) -> None:
        self._stream = (folder / FILE).open("a", encoding="utf-8")

    def write(self, values: dict[str, Any]) -> None:
        """Appends one line."""
        self._stream.write(json.dumps(values) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's metrics."""
    path = folder / FILE
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
