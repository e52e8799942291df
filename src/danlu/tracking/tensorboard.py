"""TensorBoard: event files in the run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from danlu.tracking.interface import Line, Status, TrackedRun, measures


class TensorboardTracker:
    """See `danlu.tracking.interface.Tracker`; written by tensorboardX, which needs no torch."""

    is_sure = True

    def __init__(self, run: TrackedRun) -> None:
        from tensorboardX import SummaryWriter

        self.id = run.name
        purge = run.first_step + 1 if run.id else None  # what is told again replaces what was told
        self._writer = SummaryWriter(str(run.folder), purge_step=purge)
        if not run.id:
            self._writer.add_text("recipe", _as_code(run.recipe))

    def log(self, lines: Sequence[Line]) -> None:
        """Appends to the event file."""
        for line in lines:
            for name, value in measures(line).items():
                self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()

    def finish(self, status: Status, result: dict[str, Any]) -> None:
        """Appends the result as text."""
        self._writer.add_text("result", _as_code({"status": status, **result}), result.get("steps"))
        self._writer.close()


def _as_code(value: Any) -> str:
    """Markdown that shows JSON as it is."""
    return "\n".join(f"    {line}" for line in json.dumps(value, ensure_ascii=False, indent=1).splitlines())
