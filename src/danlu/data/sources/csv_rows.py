"""Tables as text: CSV and TSV with a header, read with Python's csv module."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from danlu.data.sources import limits
from danlu.data.sources.json_lines import Content
from danlu.data.sources.lines import LongLine, lines
from danlu.data.sources.rows import BadRow, Row, repeated_name
from danlu.errors import DataError, Fault

_BARE_RETURN = "a carriage return stands alone outside quotes (old Macs ended lines so)"
_HINT = "save the table again as CSV in UTF-8, with quotes around cells that hold the delimiter, quotes or line breaks"


def csv_rows(content: Content, shown: str, kind: str) -> Iterator[Row]:
    """The rows of a table as objects from column to text; an empty cell is null.

    A row's line is that on which it begins. Lines without anything in them are passed over. A row with more or fewer
    cells than the header is a `BadRow`, as is one with broken quotes.

    Args:
        content: begins a reading of the file as UTF-8 blocks.
        shown: the file's name.
        kind: "csv" or "tsv".

    Raises:
        DataError: the header can't be used, a quote is never closed, or there are no rows.
    """
    # The module's bound on a cell is one for the whole process; ours on a row is checked on the way in.
    csv.field_size_limit(max(csv.field_size_limit(), limits.MAX_ROW_BYTES + 1))
    feed = _Feed(content, shown)
    reader, header = _begin(feed, shown, kind)
    found = False
    while True:
        feed.begin()
        try:
            cells = next(reader)
        except StopIteration:
            break
        except (csv.Error, _LongRowError) as error:
            found = True
            yield Row(feed.bad_row(error), shown, feed.begun)
            continue
        # A blank line is no row; one of empty cells is, and so is a quoted cell with nothing in it.
        if len(cells) > 1 or not feed.blank:
            found = True
            yield Row(_value(header, cells), shown, feed.begun)
    if not found:
        raise DataError(Fault("the table has a header but no rows", shown, "", "take the file out of the recipe"))


def _value(header: list[str], cells: list[str]) -> Any:
    if len(cells) != len(header):
        return BadRow(f"cells do not match the header: {len(cells)} cells, {len(header)} columns")
    return dict(zip(header, [cell or None for cell in cells], strict=True))


class _LongRowError(Exception):
    """The row is larger than it may be; its end was found."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__(limits.too_large(num_bytes))


class _Feed:
    """Gives lines to the csv reader and knows which of them make up the row that is being read.

    Attributes:
        begun: the line on which it begins.
        blank: whether there is nothing on that line.
    """

    def __init__(self, content: Content, shown: str) -> None:
        self._lines = lines(content())
        self._shown = shown
        self._held: str | None = None
        self.blank = False
        self._number = self.begun = self._num_lines = self._num_quotes = self._num_bytes = 0

    def peek(self) -> str:
        """The first line that is not blank, which stays; there must be one."""
        self.begin()
        while not (line := next(self)).strip():
            self.begin()
        self._held = line
        return line

    def begin(self) -> None:
        """A new row begins."""
        self._num_lines = self._num_quotes = self._num_bytes = 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if self._held is not None:
            held, self._held = self._held, None
            return held
        number, line = next(self._lines, (0, b""))
        if not number:
            if self._num_lines:
                raise self._never_closed()
            raise StopIteration
        self._number = number
        self._num_lines += 1
        if self._num_lines == 1:
            self.begun = number
        if isinstance(line, LongLine):
            raise self._after_long(line.num_bytes, line.num_quotes)
        self._num_bytes += len(line) + 1
        self._num_quotes += line.count(b'"')
        if self._num_bytes > limits.MAX_ROW_BYTES:
            raise self._after_long(0, 0)
        # Only the line feed was taken off; with it, line breaks within quotes stay what they are.
        text = line.decode() + "\n"
        if self._num_lines == 1:
            self.blank = not text.strip()
        return text

    def _after_long(self, num_bytes: int, num_quotes: int) -> _LongRowError:
        """Goes on to the end of a row that is too large: to where its quotes are even in number."""
        num_bytes, num_quotes = num_bytes + self._num_bytes, num_quotes + self._num_quotes
        while num_quotes % 2:
            number, line = next(self._lines, (0, b""))
            if not number:
                raise self._never_closed()
            if isinstance(line, bytes):
                line = LongLine(len(line) + 1, line.count(b'"'))
            num_bytes, num_quotes = num_bytes + line.num_bytes, num_quotes + line.num_quotes
        return _LongRowError(num_bytes)

    def bad_row(self, error: Exception) -> BadRow:
        """What stands for a row that the csv module can't read.

        Raises:
            DataError: it spans lines, so the broken quotes may have taken other rows in.
        """
        if isinstance(error, _LongRowError):
            return BadRow(str(error))
        reason = _reason(error)
        if self._num_lines > 1:
            raise DataError(
                Fault(
                    f"the quotes of this row are broken, and it takes in {self._num_lines} lines: {reason}",
                    f"{self._shown}:{self.begun}",
                    'a quote within a quoted cell is written twice: ""',
                    _HINT,
                )
            )
        return BadRow(reason if reason == _BARE_RETURN else f"broken quotes: {reason}")

    def _never_closed(self) -> DataError:
        return DataError(
            Fault(
                "a quote that is opened in this row is never closed",
                f"{self._shown}:{self.begun}",
                'a quoted cell ends with a quote; one within it is written twice: ""',
                _HINT,
            )
        )


def _reason(error: Exception) -> str:
    """What the csv module says, on one line; of one thing it speaks to programmers."""
    text = " ".join(str(error).split())
    return _BARE_RETURN if text.startswith("new-line character seen in unquoted field") else text


def _delimiter(header: str) -> str:
    """A comma, or what else parts the header where it has none: spreadsheets in many countries write `;`."""
    if "," in header:
        return ","
    return max(",;\t", key=header.count)


def _begin(feed: _Feed, shown: str, kind: str) -> tuple[Iterator[list[str]], list[str]]:
    """The reader, standing after the header, and the names of the columns."""

    def refused(what: str) -> DataError:
        return DataError(Fault(what, f"{shown}:{feed.begun}", "one line with the names of the columns", _HINT))

    try:
        first = feed.peek()
        # strict: without it, text after a closing quote is joined to the cell as if nothing were wrong.
        reader = csv.reader(feed, delimiter="\t" if kind == "tsv" else _delimiter(first), strict=True)
        names = [name.strip() for name in next(reader)]
    except (csv.Error, _LongRowError) as error:
        raise refused(f"the header can't be read: {_reason(error)}") from error
    if len(names) > limits.MAX_COLUMNS:
        raise refused(f"the header has {len(names)} columns, more than {limits.MAX_COLUMNS}")
    repeated = repeated_name(names)
    if repeated is not None:
        raise refused(f"the column `{repeated[:80]}` stands twice in the header")
    return reader, names
