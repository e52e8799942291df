"""From a recipe file and overrides to a checked `Recipe`, with every fault found in one pass."""

from __future__ import annotations

import difflib
import inspect
import json
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from danlu.errors import Fault, RecipeError
from danlu.recipe.document import Document, KeyPath, dotted_key, read_document
from danlu.recipe.overrides import apply_overrides
from danlu.recipe.schema import Recipe


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe and where it came from.

    Attributes:
        recipe: the checked values.
        path: the file it was read from.
    """

    recipe: Recipe
    path: Path

    def find(self, name: str) -> Path:
        """A path of the recipe: as it is from here, else beside the recipe file, else above it."""
        here = Path(name).expanduser()
        if here.is_absolute() or here.exists():
            return here
        for folder in (self.path.parent, self.path.parent.parent):
            if (folder / name).exists():
                return folder / name
        return here

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
    return LoadedRecipe(validate(document), Path(path))


def validate(document: Document) -> Recipe:
    """Checks a document against the schema; all faults at once."""
    try:
        return Recipe.model_validate_json(json.dumps(document.values))
    except ValidationError as error:
        faults = [_fault(document, detail) for detail in error.errors()]
        raise RecipeError(*dict.fromkeys(faults)) from error


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe, defaults written out, as YAML that loads to the same recipe."""
    from ruamel.yaml import YAML

    stream = StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(json.loads(recipe.model_dump_json()), stream)
    return stream.getvalue()


def _fault(document: Document, detail: Any) -> Fault:
    key, section = _real_key(document, detail["loc"])
    where, kind, context = document.where(key), detail["type"], detail.get("ctx", {})
    name = dotted_key(key)
    if kind == "extra_forbidden":
        allowed = sorted(section.model_fields) if section else []
        near = difflib.get_close_matches(str(key[-1]), allowed, n=1, cutoff=0.5)
        return Fault(
            f"unknown key `{key[-1]}`",
            where,
            ", ".join(allowed),
            f"did you mean `{near[0]}`?" if near else "remove it, or see `danlu recipe show`",
        )
    field = section.model_fields.get(str(key[-1])) if section and key else None
    meaning = field.description or "" if field else ""
    if kind == "missing":
        whole = len(key) == 1
        return Fault(
            f"section `{name}` is missing" if whole else f"key `{name}` is missing",
            where,
            meaning or (f"keys {', '.join(_section_keys(name))}" if whole else ""),
            f"add `{key[-1]}:` to the recipe; the files in recipes/ show it",
        )
    value = document_value(document, key)
    return Fault(
        f"`{name}` is {json.dumps(value, ensure_ascii=False)}: {_lower(detail['msg'])}",
        where,
        _allowed(kind, context, field, meaning),
        _hint(key, value),
    )


def _real_key(document: Document, location: tuple[str | int, ...]) -> tuple[KeyPath, type[BaseModel] | None]:
    """Drops union tags from pydantic's location and finds the section that holds the last key."""
    key: list[str | int] = []
    node: Any = document.values
    section: type[BaseModel] | None = Recipe
    options: list[type[BaseModel]] = []
    for index, part in enumerate(location):
        last = index == len(location) - 1
        inside = (isinstance(node, dict) and part in node) or (isinstance(node, list) and isinstance(part, int))
        known = section is not None and part in section.model_fields
        if not inside and not known and not last:
            section = next((o for o in options if _is_tag(o, part)), section)
            continue
        if not inside and not known and not isinstance(node, dict | list):
            continue
        key.append(part)
        if not last:
            field = section.model_fields.get(str(part)) if section else None
            if field is not None:
                options = _models(field.annotation)
                section = options[0] if options else None
            node = node[part] if inside else None
    return tuple(key), section


def _is_tag(model: type[BaseModel], part: str | int) -> bool:
    tag = model.model_fields.get("type")
    return part == model.__name__ or (tag is not None and part in typing.get_args(tag.annotation))


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The section types inside an annotation such as `A | tuple[B, ...] | None`."""
    if typing.get_origin(annotation) is None and inspect.isclass(annotation):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def _section_keys(name: str) -> list[str]:
    models = _models(Recipe.model_fields[name].annotation) if name in Recipe.model_fields else []
    return list(models[0].model_fields) if models else []


def document_value(document: Document, key: KeyPath) -> Any:
    """The value at a key path, or None if there is none."""
    node: Any = document.values
    for part in key:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            return None
    return node


def _allowed(kind: str, context: dict[str, Any], field: FieldInfo | None, meaning: str) -> str:
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return f"type: {context.get('expected_tags', 'see `danlu recipe show`')}"
    bounds = [
        f"{sign} {context[name]}"
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if name in context
    ]
    if kind == "literal_error":
        bounds = [str(context.get("expected", ""))]
    return ". ".join(part for part in (", ".join(bounds), meaning) if part)


def _hint(key: KeyPath, value: Any) -> str:
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return "write a value of the right type; `danlu recipe show` prints every key with its default"
        return f"write it without quotes: {key[-1]}: {number:g}"
    return f"change `{dotted_key(key)}`, or leave it out for its default"


def _lower(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
