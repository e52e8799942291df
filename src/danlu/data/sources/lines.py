"""Lines of UTF-8 bytes out of blocks, with a bound on what is held at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from danlu.data.sources import limits


@dataclass(frozen=True, slots=True)
class LongLine:
    """A line that is larger than a row may be; it was passed over and not kept.

    Attributes:
        num_bytes: its size.
        num_quotes: how many `"` stand in it.
    """

    num_bytes: int
    num_quotes: int


def lines(content: Iterable[bytes]) -> Iterator[tuple[int, bytes | LongLine]]:
    """Each line with its number from 1, without the line feed that ends it (and nothing else ends a line)."""
    number, begun = 0, _BegunLine()
    for block in content:
        pieces = block.split(b"\n")
        last = pieces.pop()
        if pieces:
            begun.add(pieces[0])
            pieces[0] = b""
            number += 1
            yield number, begun.end()
            for piece in pieces[1:]:
                number += 1
                yield number, (piece if len(piece) <= limits.MAX_ROW_BYTES else LongLine(len(piece), piece.count(b'"')))
        begun.add(last)
    if begun.num_bytes:
        yield number + 1, begun.end()


class _BegunLine:
    """A line whose end is not read yet."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._num_quotes = 0
        self._pieces: list[bytes] = []

    def add(self, piece: bytes) -> None:
        """More of the line; what is over the bound is counted alone."""
        self.num_bytes += len(piece)
        self._pieces.append(piece)
        if self.num_bytes > limits.MAX_ROW_BYTES:
            self._num_quotes += sum(piece.count(b'"') for piece in self._pieces)
            self._pieces.clear()

    def end(self) -> bytes | LongLine:
        """The line, and a new one is begun."""
        whole = b"".join(self._pieces)
        long = LongLine(self.num_bytes, self._num_quotes) if self.num_bytes > limits.MAX_ROW_BYTES else None
        self.num_bytes, self._num_quotes = 0, 0
        self._pieces.clear()
        return long or whole
