"""A JSON list, read through a window that slides over the text; a whole list never stands in memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from danlu.data.sources import limits
from danlu.data.sources.json_lines import Content
from danlu.data.sources.json_values import decode_at, problem
from danlu.data.sources.rows import BadRow, Row
from danlu.errors import DataError, Fault

_SPACE = re.compile(r"[ \t\n\r]*")
_TOKEN = re.compile(r'[\[\]{}"\\]')
# As far from the window's end as this, a word or number can be unfinished ("-Infinity", "1e-", an escaped pair).
_UNFINISHED = 16


def json_list_rows(content: Content, shown: str) -> Iterator[Row]:
    """The rows of a file that is one JSON list, counted from 1.

    Raises:
        DataError: the text is not JSON from some place on, or the list has no rows.
    """
    window = _Window(content(), shown)
    window.expect("[")
    number = 0
    if window.next_character() == "]":
        raise DataError(
            Fault("the list has no rows", shown, "one JSON list of objects", "take the file out of the recipe")
        )
    while True:
        number += 1
        yield Row(window.value(number), shown, number, "row")
        if window.next_character() != ",":
            break
        window.skip()
    window.expect("]")
    if window.next_character():
        raise window.fault("Extra data")


class _Window:
    """Part of a text, and a place in it."""

    def __init__(self, content: Iterator[bytes], shown: str) -> None:
        self._content, self._shown = content, shown
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at, self._ended = "", 0, False
        self._lines, self._columns = 0, 0  # before the window: line feeds, and characters after the last of them

    def next_character(self) -> str:
        """The next character that is not white space, which stays; "" at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match  # it matches nothing too
            self._at = match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self) -> None:
        """Goes past one character."""
        self._at += 1

    def expect(self, character: str) -> None:
        """Goes past a character that must come next."""
        if self.next_character() != character:
            raise self.fault("Expecting ',' delimiter" if character == "]" else "Expecting value")
        self.skip()

    def value(self, number: int) -> Any:
        """Row `number`'s value, of which the window is made as large as is needed and allowed."""
        self.next_character()
        while True:
            try:
                value, end = decode_at(self._text, self._at)
            except json.JSONDecodeError as error:
                # Anything else than a missing end stays wrong however much more is read.
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _UNFINISHED
                if not cut or self._ended:
                    raise self.fault(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:
                raise self.fault(problem(error), number=number) from error
            else:
                if end < len(self._text) - _UNFINISHED or self._ended:
                    return self._taken(value, end)
                self._more()
                continue
            if len(self._text) - self._at > limits.MAX_ROW_BYTES:
                return self._pass_over()
            self._more(len(self._text) - self._at)

    def _taken(self, value: Any, end: int) -> Any:
        size = end - self._at
        if size * 4 > limits.MAX_ROW_BYTES:
            size = len(self._text[self._at : end].encode())
        self._at = end
        return BadRow(limits.too_large(size)) if size > limits.MAX_ROW_BYTES else value

    def _pass_over(self) -> BadRow:
        """Goes past a row that is too large, counting brackets outside strings."""
        depth, quoted, size = 0, False, 0
        skip_before = self._at
        while True:
            begun = self._at
            for match in _TOKEN.finditer(self._text, self._at):
                if match.start() < skip_before:
                    continue
                token = match.group()
                if token == "\\":
                    skip_before = match.end() + 1
                elif token == '"':
                    quoted = not quoted
                elif not quoted:
                    depth += 1 if token in "[{" else -1
                if depth == 0 and not quoted and token in '"]}':
                    self._at = match.end()
                    return BadRow(limits.too_large(size + len(self._text[begun : self._at].encode())))
            size += len(self._text[begun:].encode())
            skip_before = max(0, skip_before - len(self._text))
            self._at = len(self._text)
            if not self._more():
                raise self.fault("Unterminated value")

    def _more(self, at_least: int = 1) -> bool:
        """Lets go of the text before the place, and adds what comes after; no if nothing does."""
        gone = self._text[: self._at]
        feeds = gone.count("\n")
        self._columns = self._at - gone.rfind("\n") - 1 if feeds else self._columns + self._at
        self._lines += feeds
        pieces, size = [self._text[self._at :]], 0
        while size < at_least and not self._ended:
            block = next(self._content, b"")
            self._ended = not block
            pieces.append(self._decoder.decode(block, self._ended))
            size += len(pieces[-1])
        self._text, self._at = "".join(pieces), 0
        return size > 0

    def fault(self, what: str, place: int | None = None, number: int | None = None) -> DataError:
        """An error at a place of the window, or in a row."""
        at = self._at if place is None else place
        before = self._text[:at]
        feeds = before.count("\n")
        column = at - before.rfind("\n") if feeds else self._columns + at + 1
        where = (
            f"{self._shown}, row {number}" if number else f"{self._shown}:{self._lines + feeds + 1}, column {column}"
        )
        return DataError(
            Fault(
                f"this is not JSON: {what}",
                where,
                "one JSON list of objects, and nothing after it",
                "mend that place; if it is the end, the file was cut off: compare it with the original",
            )
        )
