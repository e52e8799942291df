"""From a recipe file and overrides to a checked `Recipe`, with every fault found in one pass."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from danlu.errors import Fault, RecipeError
from danlu.recipe.adapters import adapter_document, require_one_base
from danlu.recipe.document import Document, read_document
from danlu.recipe.faults import schema_faults
from danlu.recipe.overrides import apply_overrides
from danlu.recipe.schema import Recipe


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe and where it came from.

    Attributes:
        recipe: the checked values.
        path: the file it was read from.
        adapters: for each of the recipe's `adapters`, by name, the recipe that it is trained by.
    """

    recipe: Recipe
    path: Path
    adapters: dict[str, LoadedRecipe] = field(default_factory=dict)

    def find(self, name: str) -> Path:
        """A path of the recipe: as it is from here, else beside the recipe file, else above it."""
        here = Path(os.path.expanduser(name))
        # os.path says no where Path would raise, for a name that is too long, say.
        if here.is_absolute() or os.path.exists(here):
            return here
        for folder in (self.path.parent, self.path.parent.parent):
            if os.path.exists(folder / name):
                return folder / name
        return here

    def each(self) -> list[LoadedRecipe]:
        """What is trained: this recipe, or that of each adapter."""
        return list(self.adapters.values()) or [self]

    @property
    def run_folder(self) -> Path:
        """Where the run is kept: `run.folder`, or `runs/` and the recipe file's name."""
        return Path(self.recipe.run.folder or f"runs/{self.path.stem}")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Reads, overrides and checks a recipe.

    Args:
        path: a YAML file.
        overrides: `section.key=value` words, applied in order.

    Raises:
        RecipeError: with a fault for each thing wrong, by file, line and key.
    """
    document = read_document(Path(path))
    apply_overrides(document, overrides)
    loaded = LoadedRecipe(validate(document), Path(path))
    return replace(loaded, adapters=_adapters(document, loaded))


def _adapters(document: Document, loaded: LoadedRecipe) -> dict[str, LoadedRecipe]:
    """The recipe of each adapter, in a folder of its own; the faults of all at once."""
    found: dict[str, LoadedRecipe] = {}
    faults: list[Fault] = []
    for name in loaded.recipe.adapters or ():
        try:
            own = adapter_document(document, name, loaded.run_folder / name)
            recipe = validate(own)
            require_one_base(own, name, recipe)
            found[name] = LoadedRecipe(recipe, loaded.path)
        except RecipeError as error:
            faults += error.faults
    if faults:
        raise RecipeError(*dict.fromkeys(faults))
    return found


def validate(document: Document) -> Recipe:
    """Checks a document against the schema; all faults at once."""
    try:
        return Recipe.model_validate_json(json.dumps(document.values))
    except ValidationError as error:
        raise RecipeError(*schema_faults(document, error.errors())) from error


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe, defaults written out, as YAML that loads to the same recipe."""
    from ruamel.yaml import YAML

    stream = StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(_quoted(json.loads(recipe.model_dump_json())), stream)
    return stream.getvalue()


def _quoted(value: Any) -> Any:
    """Puts text with line breaks and the like into double quotes, where YAML writes them as escapes."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    return DoubleQuotedScalarString(value) if isinstance(value, str) and not value.isprintable() else value
