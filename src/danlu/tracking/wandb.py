"""Weights & Biases, online or into files that `wandb sync` sends."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from typing import Any, Literal

from danlu.tracking.interface import Line, Status, TrackedRun, measures


class WandbTracker:
    """See `danlu.tracking.interface.Tracker`."""

    def __init__(
        self, run: TrackedRun, mode: Literal["online", "offline"], project: str, entity: str | None, host: str | None
    ) -> None:
        import wandb

        server = {"base_url": host} if host else {}
        patience = run.timeout_seconds / 2  # so that it says itself what is wrong
        settings = wandb.Settings(console="off", silent=True, init_timeout=patience, x_stats_pid=os.getppid(), **server)
        self.id = run.id or uuid.uuid4().hex[:8]
        self.is_sure = mode == "offline"
        self._run = wandb.init(
            id=self.id,
            name=run.name,
            project=project,
            entity=entity,
            mode=mode,
            dir=str(run.folder),
            config=run.recipe,
            resume="allow",
            settings=settings,
        )
        # W&B's own count of steps only grows, and lines that are told again after a resume would be left out.
        self._run.define_metric("*", step_metric="step")

    def log(self, lines: Sequence[Line]) -> None:
        """Hands the lines to W&B's own process."""
        for line in lines:
            self._run.log({"step": line["step"], **measures(line)})

    def finish(self, status: Status, result: dict[str, Any]) -> None:
        """Puts the result into the summary, and waits until all is sent."""
        self._run.summary.update({"status": status, "result": result})
        self._run.finish(exit_code=0 if status == "finished" else 1)
