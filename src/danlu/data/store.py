"""Prepared data on disk: flat int32 tokens, document offsets and trained spans as memory-mapped Arrow IPC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from danlu.data.template import Document

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class Store:
    """Documents of one split, read without copying.

    A document is found by one integer, its index; the tokens themselves stay on disk until they are used.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._tokens: Int32 = _column(folder / f"{name}.tokens.arrow", "token")
        self._offsets: Int64 = _column(folder / f"{name}.offsets.arrow", "offset")
        self._span_offsets: Int64 = _column(folder / f"{name}.offsets.arrow", "span_offset")
        spans = folder / f"{name}.spans.arrow"
        self._starts: Int32 = _column(spans, "start")
        self._ends: Int32 = _column(spans, "end")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> Document:
        start, end = int(self._offsets[index]), int(self._offsets[index + 1])
        first, last = int(self._span_offsets[index]), int(self._span_offsets[index + 1])
        spans = zip(self._starts[first:last].tolist(), self._ends[first:last].tolist(), strict=True)
        return Document(tuple(self._tokens[start:end].tolist()), tuple(spans))

    def lengths(self) -> Int64:
        """Tokens of each document."""
        return np.diff(self._offsets)

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents."""
        return len(self._tokens)

    @property
    def num_trained_tokens(self) -> int:
        """Trained tokens of all documents."""
        return int(np.sum(self._ends.astype(np.int64) - self._starts))


def write_store(folder: Path, name: str, documents: Sequence[Document]) -> None:
    """Writes the documents of one split as `NAME.tokens.arrow`, `NAME.offsets.arrow`, `NAME.spans.arrow`."""
    offsets = np.cumsum([0, *(len(document.ids) for document in documents)], dtype=np.int64)
    span_offsets = np.cumsum([0, *(len(document.spans) for document in documents)], dtype=np.int64)
    tokens = np.fromiter((token for document in documents for token in document.ids), np.int32)
    spans = np.array([span for document in documents for span in document.spans], np.int32).reshape(-1, 2)
    _write(folder / f"{name}.tokens.arrow", token=tokens)
    _write(folder / f"{name}.offsets.arrow", offset=offsets, span_offset=span_offsets)
    _write(folder / f"{name}.spans.arrow", start=spans[:, 0], end=spans[:, 1])


def _write(path: Path, **columns: npt.NDArray[np.generic]) -> None:
    table = pa.table({name: pa.array(np.ascontiguousarray(column)) for name, column in columns.items()})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def _column(path: Path, name: str) -> npt.NDArray[Any]:
    with pa.memory_map(str(path)) as source:
        column = pa.ipc.open_file(source).read_all().column(name)
    if column.num_chunks == 0:
        return np.empty(0, column.type.to_pandas_dtype())
    values: npt.NDArray[Any] = column.chunk(0).to_numpy(zero_copy_only=True)
    return values
