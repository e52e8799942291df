"""Dotted overrides: `training.learning_rate=1e-4` on the command line wins over the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from danlu.errors import Fault, RecipeError
from danlu.recipe.document import Document, plain_values

ADAPTERS = "adapters"


def apply_overrides(document: Document, overrides: Sequence[str]) -> None:
    """Writes each `key=value` into the document; the value is read as YAML.

    Raises:
        RecipeError: a word is not of the form `key=value`, its value is not YAML, or its key
            goes through something that is not a section.
    """
    faults = [fault for word in overrides if (fault := _apply(document, word))]
    if faults:
        raise RecipeError(*faults)


def _apply(document: Document, word: str) -> Fault | None:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    name, equals, text = word.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        return Fault(
            f"`{word}` is not an override",
            "command line",
            "section.key=value, as in training.learning_rate=1e-4",
            "put the recipe first, then overrides; quote a value that has spaces",
        )
    try:
        value = plain_values(YAML(typ="rt").load(text), (), {}) if text.strip() else None
    except (YAMLError, RecursionError):
        return Fault(f"the value of `{word}` is not YAML", "command line", hint="quote it: key='\"text\"'")
    if parts[0] == ADAPTERS:
        parts = [*parts[:2], *filter(None, [".".join(parts[2:])])]  # what follows a name is one key, as in the file
    return put(document, parts, value, f"command line, {word}")


def put(document: Document, parts: Sequence[str], value: Any, place: str) -> Fault | None:
    """Writes a value into the document.

    Args:
        document: changed in place.
        parts: of the dotted key.
        value: plain.
        place: what sets it, for messages.

    Returns:
        What is wrong: the key goes through something that is not a section.
    """
    target: dict[str, Any] = document.values
    for depth, part in enumerate(parts[:-1]):
        below = target.get(part)
        if below is None:
            below = target[part] = {}
        if not isinstance(below, dict):
            return Fault(
                f"`{'.'.join(parts[: depth + 1])}` has no keys below it",
                place,
                hint=f"set it whole: {'.'.join(parts[: depth + 1])}=...",
            )
        target = below
    target[parts[-1]] = value
    document.override(tuple(parts), place)
    return None
