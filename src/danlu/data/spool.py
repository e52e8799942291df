"""Rows set aside on disk between two passes."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path


class Spool:
    """Byte strings in a file, appended in order and read back by number.

    Read with plain reads, not by memory-mapping, whose pages would count as this process's memory. In memory are
    eight bytes a row.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # Rows may hold personal data that is masked later on: readable by the owner alone.
        self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600)
        self._ends = array("q", [0])

    def extend(self, rows: Sequence[bytes]) -> None:
        """Appends rows."""
        end = self._ends[-1]
        view = memoryview(b"".join(rows))
        offset = end
        while view:
            written = os.pwrite(self._file, view, offset)
            view, offset = view[written:], offset + written
        for row in rows:
            end += len(row)
            self._ends.append(end)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return os.pread(self._file, self._ends[index + 1] - self._ends[index], self._ends[index])

    def chunks(self, indices: Iterable[int], max_rows: int, max_bytes: int) -> Iterator[list[bytes]]:
        """Chosen rows in order, some at a time."""
        rows: list[bytes] = []
        size = 0
        for index in indices:
            rows.append(self[index])
            size += len(rows[-1])
            if len(rows) >= max_rows or size >= max_bytes:
                yield rows
                rows, size = [], 0
        if rows:
            yield rows

    def close(self) -> None:
        """Removes the file."""
        os.close(self._file)
        self._path.unlink(missing_ok=True)
