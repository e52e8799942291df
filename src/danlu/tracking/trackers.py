"""The trackers there are: one visible table. Their libraries are imported in processes of their own."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from danlu.errors import Fault, RecipeError
from danlu.tracking.interface import TrackedRun, Tracker


@dataclass(frozen=True)
class Kind:
    """One kind of tracker.

    Attributes:
        module: of ours, that has it.
        class_name: in it.
        title: for people.
        library: what it needs to be installed; the extra has the tracker's name.
        kept: pattern of the folders that hold what did not arrive, in the tracker's own.
        send: the command that sends such a folder.
    """

    module: str
    class_name: str
    title: str
    library: str
    kept: str = ""
    send: str = ""


TRACKERS = {
    "tensorboard": Kind("danlu.tracking.tensorboard", "TensorboardTracker", "TensorBoard", "tensorboardX"),
    "wandb": Kind("danlu.tracking.wandb", "WandbTracker", "Weights & Biases", "wandb", "wandb/*run-*", "wandb sync"),
    "mlflow": Kind("danlu.tracking.mlflow", "MlflowTracker", "MLflow", "mlflow"),
    "swanlab": Kind("danlu.tracking.swanlab", "SwanlabTracker", "SwanLab", "swanlab", "run-*", "swanlab sync"),
}


def open_tracker(type: str, run: TrackedRun, settings: dict[str, Any]) -> Tracker:
    """Opens a run in a tracker, in this process.

    Args:
        type: a name in `TRACKERS`.
        run: what it is told of the run.
        settings: the tracker's own keys.
    """
    kind = TRACKERS[type]
    tracker: Tracker = getattr(importlib.import_module(kind.module), kind.class_name)(run, **settings)
    return tracker


def require_trackers(types: Sequence[str]) -> None:
    """Requires that the libraries of trackers are installed; nothing is imported.

    Raises:
        RecipeError: with a fault for each that is not.
    """
    absent = [type for type in dict.fromkeys(types) if not _is_installed(TRACKERS[type].library)]
    if absent:
        raise RecipeError(
            *(
                Fault(
                    f"{TRACKERS[type].title} is not installed",
                    "tracking.trackers",
                    hint=f"pip install 'danlu[{type}]', or leave {{type: {type}}} out",
                )
                for type in absent
            )
        )


def _is_installed(library: str) -> bool:
    found = importlib.util.find_spec(library)
    return found is not None and found.origin is not None  # a folder of that name, as W&B makes, is no library
