"""The folder of a run: made anew, or gone on with by the same recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from danlu.data.ledger import CHANGES
from danlu.data.prepared import LEDGER
from danlu.errors import Fault, FolderError, RecipeError
from danlu.recipe import LoadedRecipe, load_recipe
from danlu.runs import ADAPTER, CHECKPOINTS, MANIFEST, MODEL, RESOLVED, create_folder
from danlu.training.processes import Processes

# What may differ when a run goes on: how a step is computed and kept, and what comes after training.
_FREE = {
    *(
        "run.folder",
        "run.launcher",
        "evaluation",
        "export",
        "tracking",
        "training.backend",
        "training.checkpoints",
        "training.max_memory",
    ),
    *("training.micro_batch_tokens", "training.activation_checkpointing", "data.num_workers"),
    *("training.guards.max_quarantined_steps", "training.guards.shrink_micro_batch"),
    *("training.guards.stuck_step_seconds", "training.guards.stuck_step_factor", "training.guards.abort_stuck_step"),
}


def begin_run(loaded: LoadedRecipe, folder: Path, processes: Processes, resume: bool) -> bool:
    """Makes the run folder, in the first process alone; or gives whether the run in it is to go on.

    Raises:
        FolderError: the folder holds something that can't be gone on with.
        RecipeError: the run was begun by another recipe.
    """
    goes_on = resume and require_resumable(loaded, folder)
    processes.wait()  # all have looked before one changes anything
    if processes.first and goes_on:
        _keep_account(folder)
    if processes.first and not goes_on:
        if resume:
            shutil.rmtree(folder, ignore_errors=True)  # it has nothing to go on from
        create_folder(folder, "run folder", "run.folder=NAME")
    return goes_on


def _keep_account(folder: Path) -> None:
    """Puts aside what the part of a streamed run that ended wrote of its rows; the next part writes its own."""
    changes = folder / CHANGES
    if not changes.is_file():
        return
    number = 1 + len(list(folder.glob("changes.part-*.jsonl")))
    for path in (changes, folder / LEDGER):
        if path.is_file():
            path.rename(path.with_name(f"{path.stem}.part-{number}{path.suffix}"))


def require_resumable(loaded: LoadedRecipe, folder: Path) -> bool:
    """Whether the run folder holds a run that was begun and not ended by this recipe; no if there is none.

    Raises:
        FolderError: the run is complete, or the folder is something else.
        RecipeError: the run was begun by another recipe.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if (folder / MANIFEST).is_file():
        raise FolderError(
            Fault(
                "this run is complete: there is nothing to resume",
                str(folder),
                hint=f"use it: danlu evaluate {folder}; or train anew into another with run.folder=NAME",
            )
        )
    path = folder / RESOLVED
    if not path.is_file():
        raise FolderError(
            Fault("this is no run folder", str(folder), "a run that was begun, or a new folder", "check run.folder")
        )
    require_same_recipe(loaded, folder)
    if not (folder / CHECKPOINTS).is_dir() and any((folder / name).is_dir() for name in (ADAPTER, MODEL)):
        raise FolderError(
            Fault(
                "this run has no checkpoint to go on from, but what was trained",
                str(folder),
                hint=f"try it: danlu chat {folder}; or train anew into another with run.folder=NAME",
            )
        )
    return (folder / CHECKPOINTS).is_dir()


def require_same_recipe(loaded: LoadedRecipe, folder: Path) -> None:
    """Requires that the run in a folder was begun by this recipe, but for what may differ.

    Raises:
        RecipeError: a fault for each key that is another.
    """
    path = folder / RESOLVED
    begun, now = (_keys(one.recipe.model_dump(mode="json")) for one in (load_recipe(path), loaded))
    odd = [key for key in sorted({*begun, *now}) if begun.get(key) != now.get(key) and not _is_free(key)]
    if odd:
        raise RecipeError(
            *(
                Fault(
                    f"`{key}` is {json.dumps(now.get(key))}; the run was begun with {json.dumps(begun.get(key))}",
                    str(path),
                    hint="resume with the recipe and overrides of the run, or train anew into another folder",
                )
                for key in odd
            )
        )


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in _FREE)


def _keys(value: Any, above: str = "") -> dict[str, Any]:
    """Every value of nested mappings, by dotted key."""
    if not isinstance(value, dict):
        return {above: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _keys(inner, f"{above}.{key}" if above else key)
    return found
