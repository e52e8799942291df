"""Whether a run folder can be gone on with, by the same recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from danlu.errors import Fault, FolderError, RecipeError
from danlu.recipe import LoadedRecipe, load_recipe
from danlu.runs import MANIFEST

CHECKPOINTS, RESOLVED = "checkpoints", "recipe.resolved.yaml"
# What may differ when a run goes on: how a step is computed and kept, and what comes after training.
_FREE = {
    *("run.folder", "evaluation", "export", "training.backend", "training.checkpoints", "training.max_memory"),
    *("training.micro_batch_tokens", "training.activation_checkpointing", "data.num_workers"),
}


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
