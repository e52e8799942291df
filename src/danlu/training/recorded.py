"""A run's start and end in the audit log: by which recipe, on which data and base, who started it, how it ended."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu import __version__
from danlu.data.prepared import Prepared
from danlu.errors import DanluError, DataError, Stopped
from danlu.recipe import LoadedRecipe, dump_recipe
from danlu.runs import ADAPTER, MANIFEST, MODEL, read_manifest
from danlu.tracking.recorded import record


@contextlib.contextmanager
def recorded(loaded: LoadedRecipe, session: Any, prepared: Prepared, writes: bool) -> Iterator[None]:
    """Writes down that a run trains meanwhile, and how it ended.

    Args:
        loaded: its recipe.
        session: of the run.
        prepared: the data.
        writes: whether this process does.
    """
    if not writes:
        yield
        return
    folder = loaded.run_folder.resolve()
    files = {name: file["sha256"] for name, file in prepared.about["files"].items() if name.endswith(".arrow")}
    begun = {
        "run_folder": str(folder),
        "recipe": str(loaded.path.resolve()),
        "recipe_sha256": hashlib.sha256(dump_recipe(loaded.recipe).encode("utf-8", "backslashreplace")).hexdigest(),
        "data_sha256": files,
        "streamed": loaded.recipe.data.streaming,
        "base": loaded.recipe.model.name,
        "base_sha256": session.base_sha256,
        "after_step": session.first_step,
        "processes": session.processes.world_size,
        "process_id": os.getpid(),
        "version": __version__,
    }
    start = record("training started", begun)
    try:
        yield
    except BaseException as error:
        record("training ended", {"run_folder": str(folder), "start": start, **_outcome(error)})
        raise
    ended = {"run_folder": str(folder), "start": start, "outcome": "done", "trained_sha256": _trained(folder)}
    record("training ended", ended)


def _outcome(error: BaseException) -> dict[str, str]:
    """How a run ended that is not done; of wrong rows their places alone, never what they hold."""
    if isinstance(error, Stopped | KeyboardInterrupt):
        return {"outcome": "stopped"}
    why = type(error).__name__
    if isinstance(error, DanluError):
        fault = error.faults[0]
        why += f": {fault.where}" if isinstance(error, DataError) else f": {fault.what}"
    return {"outcome": "failed", "why": why}


def _trained(folder: Path) -> dict[str, str]:
    """Hashes of what was trained, by file, and of the manifest's whole."""
    files = read_manifest(folder, "run")["files"] if (folder / MANIFEST).is_file() else {}
    return {
        name: file["sha256"]
        for name, file in files.items()
        if name.split("/")[0] in (ADAPTER, MODEL) and name.endswith(".safetensors")
    }
