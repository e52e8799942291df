"""SwanLab, online or into files that `swanlab sync` sends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

from danlu.tracking.interface import Line, Status, TrackedRun, measures


class SwanlabTracker:
    """See `danlu.tracking.interface.Tracker`."""

    def __init__(
        self, run: TrackedRun, mode: Literal["online", "offline"], project: str, workspace: str | None, host: str | None
    ) -> None:
        if host:
            os.environ["SWANLAB_API_HOST"] = host
        import swanlab

        self.is_sure = mode == "offline"
        self._run = swanlab.init(
            id=run.id,
            name=run.name,
            project=project,
            workspace=workspace,
            mode=mode,
            log_dir=str(run.folder),
            config=run.recipe,
            resume="allow" if run.id else None,
        )
        self.id = str(self._run.id)

    def log(self, lines: Sequence[Line]) -> None:
        """Hands the lines to SwanLab's own threads."""
        for line in lines:
            self._run.log(measures(line), step=line["step"])

    def finish(self, status: Status, result: dict[str, Any]) -> None:
        """Puts the result into the run's config, and waits until all is sent."""
        self._run.config.update({"status": status, "result": result})
        states: dict[Status, Any] = {"finished": "success", "failed": "crashed", "stopped": "aborted"}
        self._run.finish(state=states[status])
