"""Plain text: each line is a row."""

from __future__ import annotations

from collections.abc import Iterator

from danlu.data.sources import limits
from danlu.data.sources.json_lines import Content
from danlu.data.sources.lines import LongLine, lines
from danlu.data.sources.rows import BadRow, Row


def text_rows(content: Content, shown: str) -> Iterator[Row]:
    """A row `{"text": line}` for each line that is not blank."""
    for number, line in lines(content()):
        if isinstance(line, LongLine):
            yield Row(BadRow(limits.too_large(line.num_bytes)), shown, number)
            continue
        text = line.decode().removesuffix("\r")
        if text.strip():
            yield Row({"text": text}, shown, number)
