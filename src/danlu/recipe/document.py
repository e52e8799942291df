"""A YAML file as plain values plus the line of every key, so that a message can say where."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.errors import Fault, RecipeError

KeyPath = tuple[str | int, ...]


@dataclass
class Document:
    """Plain values (dict, list, str, int, float, bool, None) and where each key stands.

    Attributes:
        path: the file, or None if the recipe came from elsewhere.
        values: the mapping as plain Python values.
        lines: 1-based line by key path.
        overridden: key paths set by something else than the key itself, with what and where that is.
    """

    path: Path | None
    values: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    overridden: dict[KeyPath, str] = field(default_factory=dict)

    def override(self, key: KeyPath, place: str) -> None:
        """Notes that this key was set from elsewhere, so that nothing at or below it is its own line's."""
        for known in (self.lines, self.overridden):
            for path in [path for path in known if path[: len(key)] == key]:
                del known[path]
        self.overridden[key] = place

    def where(self, key: KeyPath) -> str:
        """`file:line, dotted.key`, taking the nearest ancestor's line if the key is absent."""
        dotted = dotted_key(key)
        below = [place for path, place in self.overridden.items() if path[: len(key)] == key]
        if below and key not in self.lines:
            return below[0]
        for length in range(len(key), 0, -1):
            if key[:length] in self.overridden:
                return self.overridden[key[:length]]
            if key[:length] in self.lines:
                return f"{self.path}:{self.lines[key[:length]]}, {dotted}"
        return f"{self.path}, {dotted}" if dotted else str(self.path)


def dotted_key(key: KeyPath) -> str:
    """`('evaluation', 'tasks', 1)` as `evaluation.tasks[1]`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_document(path: Path) -> Document:
    """Reads a YAML 1.2 mapping.

    Raises:
        RecipeError: the file is missing, is a folder, is not UTF-8, is not YAML, or is not a mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    text = _read_text(path)
    try:
        loaded = YAML(typ="rt").load(text)
        document = Document(path, {})
        document.values = plain_values(loaded, (), document.lines)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(error.problem or error.context or "bad YAML").split())
        raise RecipeError(
            Fault(
                what=f"this is not YAML: {problem}",
                where=f"{path}:{mark.line + 1}, column {mark.column + 1}" if mark else str(path),
                allowed="one mapping of sections, two spaces for each level, each key once",
                hint="compare the line with one of the files in recipes/",
            )
        ) from error
    except YAMLError as error:
        problem = str(error).splitlines()[0]
        raise RecipeError(
            Fault(f"this is not YAML: {problem}", str(path), hint="remove the bytes that are not text")
        ) from error
    except RecursionError as error:
        raise RecipeError(
            Fault("the recipe is nested too deeply", str(path), hint="start from a file in recipes/")
        ) from error
    if not isinstance(loaded, dict):
        raise RecipeError(
            Fault(
                what="the recipe is empty" if loaded is None else "the recipe is not a mapping of sections",
                where=str(path),
                allowed="sections model, data, adapter, training, and if wanted evaluation, export, run",
                hint="start from a file in recipes/",
            )
        )
    return document


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise RecipeError(
            Fault("no such recipe file", str(path), hint="the shipped ones are in recipes/; check the path")
        ) from error
    except IsADirectoryError as error:
        raise RecipeError(
            Fault("this is a folder, not a recipe file", str(path), hint="name the .yaml file in it")
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            Fault(f"not UTF-8 at byte {error.start}", str(path), hint="save the recipe as UTF-8")
        ) from error
    except OSError as error:
        raise RecipeError(Fault(f"can't read the recipe: {error.strerror}", str(path))) from error


def plain_values(node: Any, key: KeyPath, lines: dict[KeyPath, int]) -> Any:
    """Strips the types of ruamel's round-trip loader and notes the line of each key below `key`."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq
    from ruamel.yaml.scalarbool import ScalarBoolean

    if isinstance(node, CommentedMap):
        for name in node:
            position = (node.lc.data or {}).get(name)  # a key that came by `<<` has none
            if position:
                lines[(*key, str(name))] = position[0] + 1
        return {str(name): plain_values(value, (*key, str(name)), lines) for name, value in node.items()}
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            lines[(*key, index)] = node.lc.item(index)[0] + 1
        return [plain_values(value, (*key, index), lines) for index, value in enumerate(node)]
    if isinstance(node, ScalarBoolean):  # an anchored one; it is an int to Python
        return bool(node)
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return None if node is None else str(node)
