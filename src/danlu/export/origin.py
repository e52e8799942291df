"""What an export was made of, and whether a run still is that."""

from __future__ import annotations

from typing import Any

from danlu.runs import ADAPTER, MODEL, changed_files, file_hash
from danlu.training.trained import TrainedRun, base_hash


def origin_of(run: TrainedRun) -> dict[str, Any]:
    """SHA-256 of the base, and of what the run trained."""
    return {"base_sha256": run.about.get("base_sha256"), "trained_sha256": _trained_hash(run)}


def origin_faults(run: TrainedRun, about: dict[str, Any]) -> list[str]:
    """Faults of an export whose manifest says that it was made of another base or adapter than the run has now.

    Args:
        run: whose export it should be.
        about: the export's manifest; empty if it has none.
    """
    faults = []
    if about.get("base_sha256") not in (None, run.about.get("base_sha256")):
        faults.append("base: the folder was made from another base than this run was trained on")
    if about.get("trained_sha256") not in (None, _trained_hash(run)):
        faults.append("adapter: the folder was made from other trained weights than this run has now")
    return faults


def changed_since_trained(run: TrainedRun) -> list[str]:
    """Files that the run trained and that are not as its manifest has them: why an export may not be the model."""
    files = run.about.get("files", {})
    trained = [name for name in files if name.startswith((f"{ADAPTER}/", f"{MODEL}/"))]
    return [f"run: {name} changed since the run ended" for name in changed_files(run.folder, files, trained)]


def _trained_hash(run: TrainedRun) -> str:
    if run.recipe.adapter is None:
        return base_hash(run.folder / MODEL)
    return file_hash(run.folder / ADAPTER / "adapter_model.safetensors")
