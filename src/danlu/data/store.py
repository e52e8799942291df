"""Prepared documents on disk: int32 tokens and trained spans as memory-mapped Arrow, and orders over them.

`documents.arrow` holds each labelled document once, with the place of its row. `train.arrow`, `evaluation.arrow` and
the like are lists of document numbers: a row that is repeated, held out or left out costs four bytes, not a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from danlu.data.template import Document
from danlu.errors import Fault, FolderError

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

DOCUMENTS = "documents.arrow"
_SCHEMA = pa.schema({"tokens": pa.list_(pa.int32()), "spans": pa.list_(pa.int32()), "where": pa.string()})
_NUMBERS = pa.schema({"document": pa.int32()})


def to_batch(documents: Sequence[Document], wheres: Sequence[str]) -> pa.RecordBatch:
    """Documents as one Arrow batch; `spans` is start, end, start, end, ...

    Args:
        documents: D documents.
        wheres: the place of the row that each came from.
    """
    spans = [[edge for span in document.spans for edge in span] for document in documents]
    tokens = [np.asarray(document.ids, np.int32) for document in documents]
    columns = [_lists(tokens), _lists([np.asarray(edges, np.int32) for edges in spans]), _texts(wheres)]
    return pa.record_batch(columns, schema=_SCHEMA)


# `pa.array` and `np.asarray` of an array import pandas wherever that is installed, for values that never come here: a
# third of a second, 33 MB.
def _numbers(values: Int32) -> pa.Array:
    return pa.Array.from_buffers(pa.int32(), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _offsets(parts: Sequence[Int32] | Sequence[bytes]) -> Int32:
    return np.cumsum([0, *map(len, parts)], dtype=np.int32)


def _lists(parts: Sequence[Int32]) -> pa.Array:
    values = np.concatenate(parts) if parts else np.empty(0, np.int32)
    return pa.ListArray.from_arrays(_numbers(_offsets(parts)), _numbers(values))


def _texts(texts: Sequence[str]) -> pa.Array:
    parts = [text.encode() for text in texts]
    buffers = [None, pa.py_buffer(_offsets(parts)), pa.py_buffer(b"".join(parts))]
    return pa.Array.from_buffers(pa.string(), len(parts), buffers)


class StoreWriter:
    """Writes documents batch by batch; memory does not grow with their number.

    Attributes:
        num_documents: written so far.
    """

    def __init__(self, folder: Path) -> None:
        self._sink = pa.OSFile(str(folder / DOCUMENTS), "wb")
        self._writer = pa.ipc.new_file(self._sink, _SCHEMA)
        self.num_documents = 0

    def append(self, batch: pa.RecordBatch) -> None:
        """Adds what `to_batch` made."""
        if batch.num_rows:
            self._writer.write_batch(batch)
        self.num_documents += batch.num_rows

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._writer.close()
        self._sink.close()


def write_order(folder: Path, name: str, documents: Int64 | Sequence[int]) -> None:
    """Writes which documents a split has, in which order, as `NAME.arrow`."""
    batch = pa.record_batch([_numbers(np.asarray(documents, np.int32))], schema=_NUMBERS)
    with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, _NUMBERS) as writer:
        writer.write_batch(batch)


class Store:
    """Documents of one split, read without copying.

    A document is found by one integer, its place in the split; the tokens stay on disk until they are used.
    """

    def __init__(self, folder: Path, name: str) -> None:
        order = _open(folder / f"{name}.arrow").read_all().column(0).combine_chunks()
        self._order = _integers(order)
        reader = _open(folder / DOCUMENTS)
        self._batches: list[Any] = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._firsts: Int64 = np.cumsum([0, *(batch.num_rows for batch in self._batches)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Document:
        batch, row = self._find(index)
        edges = _list_at(batch.column(1), row).tolist()
        spans = tuple(zip(edges[::2], edges[1::2], strict=True))
        return Document(tuple(_list_at(batch.column(0), row).tolist()), spans)

    def where(self, index: int) -> str:
        """The place of the row that a document came from."""
        batch, row = self._find(index)
        return str(batch.column(2)[row].as_py())

    def _find(self, index: int) -> tuple[Any, int]:
        number = int(self._order[index])
        place = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return self._batches[place], number - int(self._firsts[place])

    def lengths(self) -> Int64:
        """Tokens of each document."""
        return self._sizes(0)

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents, each counted as often as it comes."""
        return int(self.lengths().sum())

    @property
    def num_trained_tokens(self) -> int:
        """Trained tokens of all documents, each counted as often as it comes."""
        trained = [_trained(batch.column(1)) for batch in self._batches]
        return int(np.concatenate([*trained, np.empty(0, np.int64)])[self._order].sum())

    def _sizes(self, column: int) -> Int64:
        sizes = [np.diff(_integers(batch.column(column).offsets)).astype(np.int64) for batch in self._batches]
        ordered: Int64 = np.concatenate([*sizes, np.empty(0, np.int64)])[self._order]
        return ordered


def _trained(spans: Any) -> Int64:
    """Trained tokens of each document of a batch."""
    offsets, edges = _integers(spans.offsets), _integers(spans.values).astype(np.int64)
    before = np.concatenate([[0], np.cumsum(edges[1::2] - edges[::2])])
    trained: Int64 = np.diff(before[offsets // 2])
    return trained


def _list_at(column: Any, row: int) -> Int32:
    offsets = column.offsets
    return _integers(column.values)[offsets[row].as_py() : offsets[row + 1].as_py()]


def _integers(array: Any) -> Int32:
    values: Any = np.from_dlpack(array)
    return values  # type: ignore[no-any-return]


def _open(path: Path) -> Any:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path)))
    except pa.ArrowInvalid as error:
        what, hint = "the prepared data is damaged: this is no whole Arrow file", "remove the folder: it is made anew"
        raise FolderError(Fault(what, str(path), hint=hint)) from error
