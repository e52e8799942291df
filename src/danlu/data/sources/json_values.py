"""JSON values, with what Python's decoder would pass over in silence."""

from __future__ import annotations

import json
from typing import Any

from danlu.data.sources import limits
from danlu.data.sources.rows import BadRow, repeated_name


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    raise _RepeatedKeyError(repeated_name(key for key, _ in pairs))


class _RepeatedKeyError(Exception):
    """Ends the decoding of a value; it has to be decoded again to find its end."""


_checked = json.JSONDecoder(object_pairs_hook=_object).raw_decode
_plain = json.JSONDecoder().raw_decode


class TooDeepError(ValueError):
    """Lists and objects stand within each other more than `MAX_DEPTH` deep."""


def decode_at(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at a character, and where it ends.

    Returns:
        The value, or a `BadRow` if a key stands twice in one of its objects.

    Raises:
        ValueError: there is no value, or a number has too many digits; `problem` says which.
        RecursionError: it is nested far too deeply.
    """
    try:
        value, end = _checked(text, start)
    except _RepeatedKeyError as error:
        key = str(error.args[0])[:80]
        return BadRow(f"a key stands twice: `{key}`"), _plain(text, start)[1]
    nesting = text.count("{", start, end) + text.count("[", start, end)
    if nesting > limits.MAX_DEPTH and _depth(value) > limits.MAX_DEPTH:
        raise TooDeepError
    return value, end


def parse_json(text: str) -> Any:
    """The JSON value that a whole text is, as `decode_at` gives it.

    Raises:
        ValueError, RecursionError: as `decode_at`, or something stands behind the value.
    """
    text = text.strip(" \t\r\n")
    value, end = decode_at(text, 0)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def problem(error: ValueError | RecursionError) -> str:
    """What is wrong with the JSON, in a few words."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    deep = isinstance(error, RecursionError | TooDeepError)
    return "it is nested too deeply" if deep else "a number has too many digits"


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth
