"""Reading rows from JSON and JSONL files, each with the place it came from."""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.errors import DataError, Fault

_SHOWN_FAULTS = 5


@dataclass(frozen=True)
class Row:
    """One row as it was read.

    Attributes:
        value: the JSON value; not yet known to be an object.
        path: the file.
        line: 1-based line in a JSONL file, or 1-based position in a JSON list.
        unit: "line" or "row", whichever `line` counts.
    """

    value: Any
    path: Path
    line: int
    unit: str = "line"

    @property
    def where(self) -> str:
        """`file:12`, or `file, row 12` for a JSON list."""
        return f"{self.path}:{self.line}" if self.unit == "line" else f"{self.path}, row {self.line}"


def read_rows(path: Path) -> list[Row]:
    """All rows of a JSON list or of a JSONL file; which of the two is seen from the first character.

    Raises:
        DataError: the file is missing, empty, not UTF-8 or not JSON, or has bad lines (the first are listed).
    """
    text = _read_text(path)
    start = text.lstrip()[:1]
    if not start:
        raise DataError(
            Fault(
                "the file is empty",
                str(path),
                "one JSON object per line, or one JSON list",
                "put the rows in, or take the file out of the recipe",
            )
        )
    if start == "[":
        return _read_list(path, text)
    if start == "{":
        return _read_lines(path, text)
    raise DataError(
        Fault(
            "this is not JSON: it starts with neither `{` nor `[`",
            str(path),
            "one JSON object per line (JSONL), or one JSON list of objects",
            "convert the file, one object for each row",
        )
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(
            Fault("no such data file", str(path), hint="paths are taken from here, then from beside the recipe")
        ) from error
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "GB18030"
        raise DataError(
            Fault(
                f"not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}",
                str(path),
                "UTF-8",
                f"convert it; if it is {encoding}: iconv -f {encoding} -t UTF-8 {path.name} > utf8{path.suffix}",
            )
        ) from error
    except OSError as error:
        raise DataError(Fault(f"can't read the data file: {error.strerror}", str(path))) from error


def _read_list(path: Path, text: str) -> list[Row]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f"{path}:{error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(path)
        raise DataError(
            Fault(
                f"this is not JSON: {_problem(error)}",
                place,
                "one JSON list of objects, and nothing after it",
                "mend that place; if it is the end, the file was cut off: compare it with the original",
            )
        ) from error
    if not values:
        raise DataError(
            Fault("the list has no rows", str(path), "one JSON list of objects", "take the file out of the recipe")
        )
    return [Row(value, path, index, "row") for index, value in enumerate(values, 1)]


def _read_lines(path: Path, text: str) -> list[Row]:
    rows: list[Row] = []
    faults: list[Fault] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(Row(json.loads(line), path, number))
        except (ValueError, RecursionError) as error:
            faults.append(Fault(f"this line is not JSON: {_problem(error)}", f"{path}:{number}"))
    if faults and not rows and text.lstrip().startswith("{"):
        faults = _one_object_faults(path, text) or faults
    if faults:
        shown = faults[:_SHOWN_FAULTS]
        rest = len(faults) - len(shown)
        more = f"; {rest} more bad {'line follows' if rest == 1 else 'lines follow'}" if rest else ""
        last = shown[-1]
        shown[-1] = Fault(
            last.what + more,
            last.where,
            last.allowed or "one JSON object on each line",
            last.hint or "mend the line, or delete it if the row is not wanted",
        )
        raise DataError(*shown)
    return rows


def _problem(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "it is nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"


def _one_object_faults(path: Path, text: str) -> list[Fault]:
    """A single object spread over many lines deserves its own message."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [
        Fault(
            "the file is one JSON object, not rows",
            str(path),
            "one JSON object per line, or one JSON list",
            "put the rows into a list: [ ... ]",
        )
    ]
