"""SwanLab, online or into files that `swanlab sync` sends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from danlu.tracking.interface import Line, Status, TrackedRun, measures


class SwanlabTracker:
    """See `danlu.tracking.interface.Tracker`."""

    def __init__(
        self, run: TrackedRun, mode: Literal["online", "offline"], project: str, workspace: str | None, host: str | None
    ) -> None:
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
            settings=swanlab.Settings(api_host=host) if host else None,
        )
        if self._run.mode != mode:  # without a key it goes on by itself, into files
            raise ConnectionError(f"not {mode}: is SWANLAB_API_KEY set?")
        self.id = str(self._run.id)

    def log(self, lines: Sequence[Line]) -> None:
        """Hands the lines to SwanLab's own threads."""
        for line in lines:
            self._run.log(measures(line), step=line["step"])

    def finish(self, status: Status, result: dict[str, Any]) -> None:
        """Puts the result into the run's config, and waits until all is sent."""
        self._run.config.update({"status": status, "result": result})
        states: dict[Status, Any] = {"finished": "success", "failed": "crashed", "stopped": "aborted"}
        self._run.finish(state=states[status], error=status if status == "failed" else None)
