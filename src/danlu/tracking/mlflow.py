"""MLflow, on a server or in a database file."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from danlu.tracking.interface import Line, Status, TrackedRun, flat, measures

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_MOST = 1000  # metrics that a server takes at once
_MOST_PARAMETERS = 100
_LONGEST_PARAMETER = 500


class MlflowTracker:
    """See `danlu.tracking.interface.Tracker`; what a request did not bring over within the timeout, it raises for."""

    is_sure = True

    def __init__(self, run: TrackedRun, uri: str | None, experiment: str) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(max(1, int(run.timeout_seconds / 2))))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # lines are sent again with the next ones
        from mlflow import MlflowClient

        database = (run.folder.absolute().parents[2] / "mlflow.db").as_posix()
        self._client = MlflowClient(uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database}")
        self.id = run.id or self._create(run, experiment)
        if run.id:
            self._client.update_run(run.id, "RUNNING")

    def _create(self, run: TrackedRun, experiment: str) -> str:
        from mlflow.entities import Param

        found = self._client.get_experiment_by_name(experiment)
        place = found.experiment_id if found else self._client.create_experiment(experiment)
        id: str = self._client.create_run(place, run_name=run.name).info.run_id
        recipe = flat(run.recipe)
        parameters = [Param(key, str(value)[:_LONGEST_PARAMETER]) for key, value in recipe.items() if value is not None]
        for start in range(0, len(parameters), _MOST_PARAMETERS):
            self._client.log_batch(id, params=parameters[start : start + _MOST_PARAMETERS])
        return id

    def log(self, lines: Sequence[Line]) -> None:
        """Sends the lines and waits for the answer."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, line["step"]) for line in lines for name, value in measures(line).items()]
        for start in range(0, len(metrics), _MOST):
            self._client.log_batch(self.id, metrics=metrics[start : start + _MOST])

    def finish(self, status: Status, result: dict[str, Any]) -> None:
        """Sets the run's status, and the result as tags."""
        from mlflow.entities import RunTag

        tags = [RunTag(f"result.{key}", str(value)) for key, value in flat(result).items() if value is not None]
        self._client.log_batch(self.id, tags=tags[:_MOST_PARAMETERS])
        self._client.set_terminated(self.id, _STATUS[status])
