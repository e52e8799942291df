"""SwanLab, online or into files that `swanlab sync` sends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
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
        self.id, self._folder = str(self._run.id), Path(self._run.dir)

    def log(self, lines: Sequence[Line]) -> None:
        """Hands the lines to SwanLab's own threads."""
        for line in lines:
            self._run.log(measures(line), step=line["step"])

    def finish(self, status: Status, result: dict[str, Any]) -> None:
        """Puts the result into the run's config, and waits until all is sent."""
        self._run.config.update({"status": status, "result": result})
        states: dict[Status, Any] = {"finished": "success", "failed": "crashed", "stopped": "aborted"}
        before = len(self._errors())
        self._run.finish(state=states[status], error=status if status == "failed" else None)
        if errors := self._errors()[before:]:
            raise ConnectionError(errors[-1])

    def _errors(self) -> list[str]:
        """What SwanLab noted in its own log; where an upload fails it raises nothing."""
        paths = (self._folder / "debug").glob("*.log")
        lines = [line for path in paths for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        return [line.rpartition(" - ")[2] for line in lines if "| ERROR" in line]
