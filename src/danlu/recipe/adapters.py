"""Several adapters over one base: the recipe of each is the whole one, with what it has of its own written over it."""

from __future__ import annotations

import copy
from pathlib import Path

from danlu.errors import Fault, RecipeError
from danlu.recipe.document import Document
from danlu.recipe.overrides import ADAPTERS, put
from danlu.recipe.schema import Recipe
from danlu.recipe.training_schema import AutoBackend, DdpBackend

_SECTIONS = ("data", "adapter", "training", "evaluation", "export")


def adapter_document(document: Document, name: str, folder: Path) -> Document:
    """The recipe by which one of the `adapters` is trained, not checked yet.

    Args:
        document: the recipe with all of them; stays as it is.
        name: of the adapter.
        folder: its run folder.

    Raises:
        RecipeError: something is written over that all share, or that has no keys below it; a fault for each.
    """
    own = copy.deepcopy(document)
    faults = []
    for key, value in own.values.pop(ADAPTERS)[name].items():
        place, parts = document.where((ADAPTERS, name, key)), key.split(".")
        if parts[0] not in _SECTIONS and key != "run.seed":
            what = f"`{key}` can't be an adapter's own"
            allowed = f"keys of {', '.join(_SECTIONS)}; run.seed"
            hint = "all adapters have the same base, and each a folder by its name: set it for all of them"
            faults.append(Fault(what, place, allowed, hint if parts[0] in Recipe.model_fields else "check the key"))
        elif fault := put(own, parts, value, place):
            faults.append(fault)
    if faults:
        raise RecipeError(*faults)
    put(own, ["run", "folder"], str(folder), document.where((ADAPTERS, name)))
    return own


def require_one_base(document: Document, name: str, recipe: Recipe) -> None:
    """Requires that a checked recipe of one of the `adapters` leaves the base as it is.

    Raises:
        RecipeError: it trains the base itself, or shards it in place.
    """
    faults = []
    if recipe.adapter is None:
        what = f"`{name}` would train the base itself, which all adapters share"
        faults.append(Fault(what, document.where(("adapter",)), "an adapter", "train it in a run of its own"))
    backend = recipe.training.backend
    if not isinstance(backend, AutoBackend | DdpBackend):
        what = f"{backend.type} shards the base in place, and `{name}` shares it with other adapters"
        place = document.where(("training", "backend"))
        faults.append(Fault(what, place, "auto, ddp", "train each in a run of its own"))
    if faults:
        raise RecipeError(*faults)
