"""JSON lines: one value on each line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from danlu.data.sources import limits
from danlu.data.sources.json_values import parse_json, problem
from danlu.data.sources.lines import LongLine, lines
from danlu.data.sources.rows import BadRow, Row
from danlu.errors import DataError, Fault

Content = Callable[[], Iterator[bytes]]


def json_line_rows(content: Content, shown: str) -> Iterator[Row]:
    """The rows of a file of JSON lines; lines without anything in them are passed over.

    Args:
        content: begins a reading of the file as UTF-8 blocks.
        shown: the file's name.

    Raises:
        DataError: at the end, with the first bad lines, if there are any; no row after the first of them is given.
    """
    found = False
    numbered = lines(content())
    for number, line in numbered:
        if isinstance(line, LongLine):
            found = True
            yield Row(BadRow(limits.too_large(line.num_bytes)), shown, number)
            continue
        text = line.decode().strip(" \t\r")
        if not text:
            continue
        try:
            value = parse_json(text)
        except (ValueError, RecursionError) as error:
            if not text.strip():
                continue
            one = _one_object(content, shown) if isinstance(error, json.JSONDecodeError) and not found else None
            raise DataError(*([one] if one else _bad_lines(error, number, numbered, shown))) from error
        found = True
        yield Row(value, shown, number)


def _bad_lines(
    first: ValueError | RecursionError, number: int, rest: Iterator[tuple[int, bytes | LongLine]], shown: str
) -> list[Fault]:
    """The first faults, and in the last of them how many more there are."""
    faults = [Fault(f"this line is not JSON: {problem(first)}", f"{shown}:{number}")]
    more = 0
    for later, line in rest:
        error = None if isinstance(line, LongLine) else _fault_in(line)
        if error and len(faults) < limits.MAX_SHOWN_FAULTS:
            faults.append(Fault(f"this line is not JSON: {problem(error)}", f"{shown}:{later}"))
        elif error:
            more += 1
    last = faults[-1]
    counted = f"; {more} more bad {'line follows' if more == 1 else 'lines follow'}" if more else ""
    faults[-1] = Fault(
        last.what + counted,
        last.where,
        "one JSON object on each line",
        "mend the line, or delete it if the row is not wanted",
    )
    return faults


def _fault_in(line: bytes) -> ValueError | RecursionError | None:
    text = line.decode().strip()
    if not text:
        return None
    try:
        parse_json(text)
    except (ValueError, RecursionError) as error:
        return error
    return None


def _one_object(content: Content, shown: str) -> Fault | None:
    """A single object spread over many lines deserves its own message."""
    pieces, size = [], 0
    for block in content():
        pieces.append(block)
        size += len(block)
        if size > limits.MAX_ROW_BYTES:
            return None
    try:
        value = json.loads(b"".join(pieces))
    except (ValueError, RecursionError):
        return None
    lists = [key for key, item in value.items() if isinstance(item, list)] if isinstance(value, dict) else []
    within = f"the list under `{lists[0][:80]}` may be meant: make it the whole file" if len(lists) == 1 else ""
    return Fault(
        "the file is one JSON object, not rows",
        shown,
        "one JSON object per line, or one JSON list",
        within or "put the rows into a list: [ ... ]",
    )
