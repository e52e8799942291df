"""From pydantic's account of what is wrong with a recipe to faults by file, line and key."""

from __future__ import annotations

import difflib
import inspect
import json
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from danlu.errors import Fault
from danlu.recipe.document import Document, KeyPath, dotted_key
from danlu.recipe.schema import Recipe

_LONGEST_SHOWN_VALUE = 60
_WORDS = (
    ("Value error, ", ""),
    ("Input should", "should"),
    ("String should", "should"),
    ("Tuple should", "should"),
    ("Dictionary should", "should"),
    (" after validation, not 0", ""),
    ("a valid array", "a list"),
    ("an object", "a mapping of keys"),
    ("a valid ", "a "),
    ("a integer", "a whole number"),
    ("a string", "text"),
)


@dataclass(frozen=True)
class _Finding:
    """One of pydantic's details at its real place.

    Attributes:
        key: path in the document, without pydantic's union tags.
        section: the section that should hold the last key; None below a list or an unknown key.
        kind: pydantic's type of error.
        message: pydantic's message in our words.
        context: pydantic's figures, such as bounds.
    """

    key: KeyPath
    section: type[BaseModel] | None
    kind: str
    message: str
    context: dict[str, Any]

    @property
    def field(self) -> FieldInfo | None:
        return self.section.model_fields.get(str(self.key[-1])) if self.section and self.key else None

    @property
    def is_type(self) -> bool:
        """Whether it says that the value is of another kind altogether."""
        return self.kind.endswith("_type") or self.kind == "literal_error"


def schema_faults(document: Document, details: Sequence[Any], root: type[BaseModel] = Recipe) -> list[Fault]:
    """A fault for each thing wrong, in the order of pydantic's details, each once.

    Args:
        document: what was checked.
        details: pydantic's.
        root: the schema that it was checked against.
    """
    found = _without_echoes([_finding(document, detail, root) for detail in details])
    return list(dict.fromkeys(_fault(document, finding) for finding in found))


def _finding(document: Document, detail: Any, root: type[BaseModel]) -> _Finding:
    key, section = _real_key(document, detail["loc"], root)
    message = detail["msg"]
    for theirs, ours in _WORDS:
        message = message.replace(theirs, ours)
    context = detail.get("ctx", {})
    if context.get("key"):  # the section's key that is to blame (see `danlu.recipe.base.unfit`)
        key, section = (*key, context["key"]), None
    return _Finding(key, section, detail["type"], message, context)


def _without_echoes(findings: list[_Finding]) -> list[_Finding]:
    """Leaves out what only follows from another finding, and makes one of the branches of a union.

    A mapping with a bad key is also said not to be the list that the key could be as well; a list with a bad item
    is also said to be too short.
    """
    kept: dict[KeyPath, _Finding] = {}
    others: list[_Finding] = []
    for finding in findings:
        size = len(finding.key)
        below = any(len(other.key) > size and other.key[:size] == finding.key for other in findings)
        same = [other for other in findings if other.key == finding.key and not other.is_type]
        if (finding.is_type and (below or same)) or (finding.kind == "too_short" and below):
            continue
        if not finding.is_type:
            others.append(finding)
        elif finding.key in kept:
            first = kept[finding.key]
            message = f"{first.message}, or {finding.message.removeprefix('should be ')}"
            kept[finding.key] = _Finding(first.key, first.section, first.kind, message, first.context)
        else:
            kept[finding.key] = finding
    order = [finding.key for finding in findings]
    return sorted([*kept.values(), *others], key=lambda finding: order.index(finding.key))


def _real_key(
    document: Document, location: tuple[str | int, ...], root: type[BaseModel]
) -> tuple[KeyPath, type[BaseModel] | None]:
    """Drops union tags from pydantic's location and finds the section that should hold the last key."""
    key: list[str | int] = []
    node: Any = document.values
    section: type[BaseModel] | None = root
    holder: type[BaseModel] | None = None
    options: list[type[BaseModel]] = []
    for part in location:
        inside = (isinstance(node, dict) and part in node) or (isinstance(node, list) and isinstance(part, int))
        known = isinstance(node, dict) and section is not None and part in section.model_fields
        if not inside and not known:
            section = next((option for option in options if _is_tag(option, part)), section)
            continue
        key.append(part)
        holder = section if isinstance(node, dict) else None
        if isinstance(node, dict):
            field = section.model_fields.get(str(part)) if section else None
            options = _models(field.annotation) if field else []
        section = options[0] if options else None
        node = node[part] if inside else None
    return tuple(key), holder


def _is_tag(model: type[BaseModel], part: str | int) -> bool:
    return part in _tags(model) or model.__name__ in str(part)


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    tag = model.model_fields.get("type")
    return typing.get_args(tag.annotation) if tag else ()


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The section types inside an annotation such as `A | tuple[B, ...] | None`."""
    if typing.get_origin(annotation) is None and inspect.isclass(annotation):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def _fault(document: Document, finding: _Finding) -> Fault:
    key, kind = finding.key, finding.kind
    if kind == "extra_forbidden":
        return _unknown_key(document, finding)
    if kind in ("missing", "union_tag_not_found"):
        return _missing_key(document, finding)
    if kind == "union_tag_invalid":
        if not isinstance(_value_at(document, key), str):  # a name alone stands for {type: name}
            key = (*key, "type")
        message = f"should be {finding.context['expected_tags']}"
    else:
        message = finding.message
    value = _value_at(document, key)
    shown = json.dumps(value, ensure_ascii=False)
    is_value = f" is {shown}" if key and len(shown) <= _LONGEST_SHOWN_VALUE else ""
    name = f"`{dotted_key(key)}`" if key else "the recipe"
    return Fault(f"{name}{is_value}: {message}", document.where(key), _allowed(finding), _hint(finding, key, value))


def _unknown_key(document: Document, finding: _Finding) -> Fault:
    allowed = sorted(finding.section.model_fields) if finding.section else []
    near = difflib.get_close_matches(str(finding.key[-1]), allowed, n=1, cutoff=0.5)
    return Fault(
        f"unknown key `{finding.key[-1]}`",
        document.where(finding.key),
        ", ".join(allowed),
        f"did you mean `{near[0]}`?" if near else "remove it, or see `danlu recipe show`",
    )


def _missing_key(document: Document, finding: _Finding) -> Fault:
    key = finding.key if finding.kind == "missing" else (*finding.key, "type")
    sort = "section" if len(key) == 1 else "key"
    return Fault(
        f"{sort} `{dotted_key(key)}` is missing",
        document.where(key),
        _allowed(finding),
        f"add `{key[-1]}:` to the recipe; the files in recipes/ show it",
    )


def _allowed(finding: _Finding) -> str:
    """Bounds and meaning of a key, or the keys of a section."""
    context, field = finding.context, finding.field
    bounds = [
        f"{sign} {context[name]:g}"
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if name in context
    ]
    if finding.kind == "literal_error":
        bounds = [str(context["expected"])]
    meaning = field.description or "" if field else ""
    models = _models_of(finding)
    if not meaning and len(models) == 1 and finding.kind != "unfit":
        meaning = f"keys {', '.join(models[0].model_fields)}"
    return ". ".join(part for part in (", ".join(bounds), meaning) if part)


def _value_at(document: Document, key: KeyPath) -> Any:
    """The value at a key path, or None if there is none."""
    node: Any = document.values
    for part in key:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            return None
    return node


def _near(value: Any, words: Sequence[str]) -> str:
    """The one of the words that a text was meant to be; empty if none."""
    return next(iter(difflib.get_close_matches(value, words, n=1)), "") if value and isinstance(value, str) else ""


def _models_of(finding: _Finding) -> list[type[BaseModel]]:
    """The sections that a key can be."""
    return _models(finding.field.annotation) if finding.field else []


def _hint(finding: _Finding, key: KeyPath, value: Any) -> str:
    name, kind = dotted_key(key), finding.kind
    if finding.kind == "unfit":
        return str(finding.context["hint"])
    if not key:
        return "see `danlu recipe show` for every key"
    if isinstance(value, str) and kind in ("int_type", "float_type", "bool_type"):
        try:
            return f"write it without quotes: {key[-1]}: {float(value):g}"
        except ValueError:
            return "write a value of the right type; `danlu recipe show` prints every key with its default"
    if isinstance(value, int | float) and kind == "string_type":
        return (
            f'write it in quotes: "{value}"'
            if isinstance(key[-1], int)
            else f'write it in quotes: {key[-1]}: "{value}"'
        )
    near = _near(value, [word.strip("'") for word in str(finding.context.get("expected_tags", "")).split(", ")])
    if near:
        return f"did you mean `{near}`?"
    if near := _near(value, [tag for model in _models_of(finding) for tag in _tags(model)]):
        return f"write it as {key[-1]}: {{type: {near}}}"
    optional = finding.field is not None and not finding.field.is_required() and key == finding.key
    return f"change `{name}`" + (", or leave it out for its default" if optional else "")
