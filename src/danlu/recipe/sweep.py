"""A sweep file, and the recipe of each of its trials."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from danlu.errors import Fault, RecipeError
from danlu.recipe.document import Document, read_document
from danlu.recipe.faults import schema_faults
from danlu.recipe.load import LoadedRecipe, validate
from danlu.recipe.overrides import apply_overrides, put
from danlu.recipe.sweep_schema import Sweep

_OWN_WORDS = "sweep."
_FIXED = ("run.folder", "run.launcher", "adapters")


@dataclass(frozen=True)
class LoadedSweep:
    """A checked sweep.

    Attributes:
        sweep: its own keys.
        path: of the sweep file.
        document: its values and lines.
        recipe_path: of the recipe.
        recipe_document: its values, with what all trials have otherwise.
    """

    sweep: Sweep
    path: Path
    document: Document
    recipe_path: Path
    recipe_document: Document

    @property
    def folder(self) -> Path:
        """Where the trials' run folders are."""
        return Path(self.sweep.folder or f"runs/{self.path.stem}")

    def trial(self, name: str, parameters: Mapping[str, Any]) -> LoadedRecipe:
        """The recipe of one trial, whose run folder has its name.

        Raises:
            RecipeError: a fault for each value that the recipe can't have, at its line of the sweep file.
        """
        own = copy.deepcopy(self.recipe_document)
        faults = []
        for key, value in parameters.items():
            if any(key == fixed or key.startswith(f"{fixed}.") for fixed in _FIXED):
                what, hint = f"`{key}` can't be tried", "each trial is one run in a folder by its name; leave it out"
                faults.append(Fault(what, self._place(name, key), hint=hint))
            elif fault := put(own, key.split("."), copy.deepcopy(value), self._place(name, key)):
                faults.append(fault)
        if faults:
            raise RecipeError(*faults)
        put(own, ["run", "folder"], str(self.folder / name), str(self.path))
        return LoadedRecipe(validate(own), self.recipe_path)

    def _place(self, name: str, key: str) -> str:
        return self.document.where(("trials", name, key) if self.sweep.trials else ("space", key))


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> LoadedSweep:
    """Reads and checks a sweep file and its recipe.

    Args:
        path: of the sweep file.
        overrides: `section.key=value` words for the recipe; with `sweep.` in front, for the sweep file.

    Raises:
        RecipeError: with a fault for each thing wrong in one of the two.
    """
    path = Path(path)
    document = read_document(path)
    apply_overrides(document, [word.removeprefix(_OWN_WORDS) for word in overrides if word.startswith(_OWN_WORDS)])
    try:
        sweep = Sweep.model_validate_json(json.dumps(document.values))
    except ValidationError as error:
        raise RecipeError(*schema_faults(document, error.errors(), Sweep)) from error
    recipe_path = _find(sweep.recipe, path)
    recipe = read_document(recipe_path)
    for key, value in sweep.set.items():
        if fault := put(recipe, key.split("."), value, document.where(("set", key))):
            raise RecipeError(fault)
    apply_overrides(recipe, [word for word in overrides if not word.startswith(_OWN_WORDS)])
    if validate(recipe).adapters:
        what, hint = "the recipe has several adapters, and a sweep tries one", "list them as trials of a sweep"
        raise RecipeError(Fault(what, str(recipe_path), hint=hint))
    return LoadedSweep(sweep, path, document, recipe_path, recipe)


def _find(name: str, sweep: Path) -> Path:
    """The recipe file: from here, else beside the sweep file, else above it."""
    here = Path(os.path.expanduser(name))
    places = [here, sweep.parent / name, sweep.parent.parent / name]
    return next((place for place in places if os.path.exists(place)), here)
